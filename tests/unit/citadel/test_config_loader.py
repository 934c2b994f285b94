"""What `load` takes, and what it says about each thing that is wrong."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import Field

from ca.settings import ServerSettings
from citadel.config.loader import load, load_located
from citadel.config.types import HostPort, Settings
from citadel.errors import InvalidArgument, Reason
from citadel.spiffe import TrustDomain
from sds.settings import AgentSettings

GOOD = """\
trust_domain: a.test
data_dir: state
keys:
  kek_file: /etc/kek
"""


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "server.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems(tmp_path: Path, text: str | bytes, model: type[Settings] = ServerSettings) -> list[str]:
    path = write(tmp_path, text)
    with pytest.raises(InvalidArgument) as refused:
        load(path, model)
    assert refused.value.reason is Reason.CONFIG_INVALID
    return [line.removeprefix(str(tmp_path) + "/") for line in refused.value.message.splitlines()]


def test_the_least_that_is_needed_gives_defaults_and_paths_beside_the_file(tmp_path: Path) -> None:
    settings = load(write(tmp_path, GOOD), ServerSettings)
    assert settings.trust_domain == TrustDomain("a.test")
    assert settings.data_dir == tmp_path / "state"
    assert settings.keys.kek_file == Path("/etc/kek")
    assert settings.listen.bootstrap == HostPort("127.0.0.1", 8443)


def test_every_kind_of_value_is_parsed_from_its_text(tmp_path: Path) -> None:
    text = (
        GOOD
        + """\
listen: {bootstrap: "[::1]:0", admin_socket: run/admin.sock}
svids: {default_lifetime: 1m30s}
limits: {batch: 0010, joins_per_second: 2.5}
advertise:   # an empty section is its defaults
store_url: ~
"""
    )
    settings = load(write(tmp_path, text), ServerSettings)
    assert settings.listen.bootstrap == HostPort("::1", 0)
    assert settings.listen.admin_socket == tmp_path / "run" / "admin.sock"
    assert settings.svids.default_lifetime == timedelta(seconds=90)
    assert (settings.limits.batch, settings.limits.joins_per_second) == (10, 2.5)
    assert settings.advertise.bootstrap is None
    assert settings.store_url is None


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("1:30", "1:30"),
        ("on", "on"),
        ("0x10", "0x10"),
        ("2026-01-01", "2026-01-01"),
        ('"null"', "null"),
        ("1e3", "1e3"),
    ],
)
def test_plain_scalars_keep_their_text(tmp_path: Path, written: str, kept: str) -> None:
    class Plain(Settings):
        text: str

    assert load(write(tmp_path, f"text: {written}\n"), Plain).text == kept


@pytest.mark.parametrize(("written", "meant"), [("true", True), ("on", True), ("no", False), ("false", False)])
def test_booleans(tmp_path: Path, written: str, meant: bool) -> None:
    text = f"trust_domain: a.test\ndata_dir: d\njoin:\n  insecure_bootstrap: {written}\n"
    assert load(write(tmp_path, text), AgentSettings).join.insecure_bootstrap is meant


@pytest.mark.parametrize(
    ("added", "problem"),
    [
        (
            "listen:\n  bootsrap: 127.0.0.1:1\n",
            "server.yaml:6: unknown key 'listen.bootsrap' (value '127.0.0.1:1'); did you mean 'bootstrap'?",
        ),
        (
            "zzz: {a: 1}\n",
            (
                "server.yaml:5: unknown key 'zzz'; known here: trust_domain, data_dir, store_url, store_url_env, "
                "lease, listen, advertise, "
                "keys, vault, upstream, authorities, rotation, svids, oidc, federation, limits, joining, connections, "
                "ledger, audit, kubernetes, log"
            ),
        ),
        (
            "limits:\n\n  batch: many\n",
            (
                "server.yaml:7: 'limits.batch' is wrong (value 'many'): "
                "should be a valid integer, unable to parse string as an integer"
            ),
        ),
        (
            "limits: {batch: 0}\n",
            "server.yaml:5: 'limits.batch' is wrong (value '0'): should be greater than or equal to 1",
        ),
        (
            "limits: {joins_per_second: nan}\n",
            "server.yaml:5: 'limits.joins_per_second' is wrong (value 'nan'): should be a finite number",
        ),
        (
            "svids: {default_lifetime: 60}\n",
            (
                "server.yaml:5: 'svids.default_lifetime' is wrong (value '60'): "
                "'60' is not a duration; write it like 30s, 1h30m or 7d"
            ),
        ),
        (
            "svids: {default_lifetime: 9999999999999d}\n",
            (
                "server.yaml:5: 'svids.default_lifetime' is wrong (value '9999999999999d'): "
                "'9999999999999d' is longer than any duration can be"
            ),
        ),
        (
            "listen: {agents: localhost}\n",
            (
                "server.yaml:5: 'listen.agents' is wrong (value 'localhost'): "
                "'localhost' is not an address; write it like 127.0.0.1:8443 or [::1]:8443"
            ),
        ),
        (
            "log: {level: loud}\n",
            "server.yaml:5: 'log.level' is wrong (value 'loud'): should be 'debug', 'info', 'warning' or 'error'",
        ),
        ("limits: {batch:}\n", "server.yaml:5: 'limits.batch' has no value"),
        ("listen: 127.0.0.1:1\n", "server.yaml:5: 'listen' is not a section of keys (value '127.0.0.1:1')"),
        ("data_dir: again\n", "server.yaml:5: duplicate key 'data_dir', first on line 2"),
        ("? [a]\n: b\n", "server.yaml:5: a key is not plain text"),
        ("x: &a 1\ny: *a\n", "server.yaml:6: aliases (*) and tags (!) are not taken here; quote a text that begins so"),
        ("x: [*]\n", "server.yaml:5: aliases (*) and tags (!) are not taken here; quote a text that begins so"),
        (
            "store_url: !env URL\n",
            "server.yaml:5: aliases (*) and tags (!) are not taken here; quote a text that begins so",
        ),
        ("listen: [\n", "server.yaml:6: not YAML: expected the node content, but found '<stream end>'"),
        ("---\na: b\n", "server.yaml:5: a second document begins here, and a file is read as one"),
    ],
)
def test_one_mistake_gives_one_line(tmp_path: Path, added: str, problem: str) -> None:
    assert problems(tmp_path, GOOD + added) == [problem]


def test_all_mistakes_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = "trust_domian: a.test\nkeys:\n  kek_fil: k\nlimits:\n  batch: many\nlogg: {}\n"
    assert [line.split(" is wrong")[0] for line in problems(tmp_path, text)] == [
        "server.yaml: missing key 'data_dir'",
        "server.yaml:1: unknown key 'trust_domian' (value 'a.test'); did you mean 'trust_domain'?",
        "server.yaml:3: unknown key 'keys.kek_fil' (value not shown: it may be a secret); did you mean 'kek_file'?",
        "server.yaml:5: 'limits.batch'",
        "server.yaml:6: unknown key 'logg'; did you mean 'log'?",
    ]


def test_a_rule_of_a_whole_section_has_the_line_of_the_section(tmp_path: Path) -> None:
    text = "trust_domain: a.test\ndata_dir: d\nkeys:\n  kek_file: a\n  kek_env: B\n"
    (problem,) = problems(tmp_path, text)
    assert problem.startswith("server.yaml:4: 'keys' is wrong: set at most one of kek_file and kek_env")


JOIN_STRING = "citadel://h:1/a.test?bundle-sha256=00&token=s3cret"
KEK = "s3cretAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
SECRETS_IN_WRONG_PLACES = [
    (AgentSettings, "join", f"  string: {JOIN_STRING}"),
    (AgentSettings, "join", f"  string_file: {JOIN_STRING}"),
    (AgentSettings, "join", f"  bundle_file: {JOIN_STRING}"),
    (AgentSettings, "server", f"  {JOIN_STRING}"),
    (AgentSettings, "trust_domain", f"  {JOIN_STRING}"),
    (AgentSettings, "zzz", f"  {JOIN_STRING}"),
    (ServerSettings, "keys", f"  kek_file: {KEK}"),
    (ServerSettings, "keys", f"  kek_env: {KEK}"),
    (ServerSettings, "keys", f"  kek_env: {KEK[:20]}"),
    (ServerSettings, "limits", f"  token_lifetime: {KEK}"),
    (ServerSettings, "storeurl", "  postgresql+asyncpg://u:s3cret@h/d"),
    (ServerSettings, "storage", "  postgresql+asyncpg://u:s3cret@h/d"),
    (ServerSettings, "dsn", "  host=h password=s3cret"),
    (ServerSettings, "store_url", "  postgres//u:s3cret@h/d"),
    (ServerSettings, "store_url", "  mysql://u:s3cret@h/d"),
]


@pytest.mark.invariant(10)
@pytest.mark.parametrize(("model", "section", "line"), SECRETS_IN_WRONG_PLACES)
def test_a_secret_in_the_wrong_place_is_named_and_not_repeated(
    tmp_path: Path, model: type[Settings], section: str, line: str
) -> None:
    least = {"trust_domain": "a.test", "data_dir": "d"}
    if model is ServerSettings:
        least["keys"] = "{kek_env: KEK}"
    text = "".join(f"{key}: {value}\n" for key, value in least.items() if key != section)
    (problem,) = problems(tmp_path, f"{text}{section}:\n{line}\n", model)
    assert problem.startswith("server.yaml:")
    assert section in problem
    assert "(value not shown: it may be a secret)" in problem
    assert "s3cret" not in problem


class Unshown(Settings):
    words: tuple[str, ...] = Field(repr=False)


@pytest.mark.invariant(10)
def test_no_advice_repeats_what_is_not_shown(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "words: s3cret\n", Unshown)
    assert problem.endswith("'words' is wrong (value not shown: it may be a secret): should be a list")


@pytest.mark.invariant(10)
def test_settings_with_a_password_do_not_show_it(tmp_path: Path) -> None:
    settings = load(write(tmp_path, GOOD + "store_url: postgresql+asyncpg://u:s3cret@h/d\n"), ServerSettings)
    assert settings.store_url == "postgresql+asyncpg://u:s3cret@h/d"
    assert "s3cret" not in repr(settings)


class Part(Settings):
    name: str
    size: int = Field(default=0, alias="howBig")
    path: Path | None = None


class Parts(Settings):
    parts: tuple[Part, ...]
    words: tuple[int, ...] = ()


def test_each_item_of_a_list_is_read_as_a_section_of_its_own(tmp_path: Path) -> None:
    text = "parts:\n- {name: a, howBig: 2, path: b}\n- name: c\n"
    assert load(write(tmp_path, text), Parts).parts == (Part(name="a", howBig=2, path=tmp_path / "b"), Part(name="c"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- nam: a\n", "3: unknown key 'parts[1].nam' (value 'a'); did you mean 'name'?"),
        ("- {name: a, size: 1}\n", "3: unknown key 'parts[1].size' (value '1'); known here: name, howBig, path"),
        ("- {name: a,\n   howBig: x}\n", "4: 'parts[1].howBig' is wrong (value 'x'): "),
        ("- {howBig: 1}\n", "3: missing key 'parts[1].name'"),
        ("- text\n", "3: 'parts[1]' is not a section of keys (value 'text')"),
        ("-\n- {name: b}\n", "3: missing key 'parts[1].name'"),
        ("words: [1,\n  ~, 3]\n", "4: 'words[1]' has no value"),
        ("words: [1,\n  two, 3]\n", "4: 'words[1]' is wrong (value 'two'): "),
        ("words: 1\n", "3: 'words' is wrong (value '1'): should be a list: write [1]"),
        (f"words: '{'9' * 101}'\n", f"3: 'words' is wrong (value '{'9' * 100}'): should be a list"),
        (f"words: [1,\n  '{KEK}', 3]\n", "4: 'words[1]' is wrong (value not shown: it may be a secret)"),
    ],
)
def test_what_is_wrong_in_a_list_has_the_line_of_the_item(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = problems(tmp_path, f"parts:\n- name: a\n{text}", Parts)
    assert found.startswith(f"server.yaml:{problem}")
    assert "s3cret" not in found


def test_a_rule_about_several_settings_can_name_their_lines(tmp_path: Path) -> None:
    located = load_located(write(tmp_path, "parts:\n- name: a\n- name: b\n"), Parts)
    path = tmp_path / "server.yaml"
    assert located.problem(("parts", 1, "name"), "is b") == (3, f"{path}:3: 'parts[1].name' is b")
    assert located.problem(("parts", 1, "path"), "is not there") == (3, f"{path}:3: 'parts[1].path' is not there")


def test_a_document_that_is_no_mapping(tmp_path: Path) -> None:
    assert problems(tmp_path, "- a\n") == ["server.yaml:1: the file is not a section of keys"]


def test_an_empty_document_lacks_every_needed_key(tmp_path: Path) -> None:
    assert problems(tmp_path, "# nothing\n") == [
        f"server.yaml: missing key '{key}'" for key in ("trust_domain", "data_dir", "keys")
    ]


def test_what_is_no_text(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, b"a: \xff\xfe\x00")
    assert problem.startswith("server.yaml: not YAML: ")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InvalidArgument, match=why) as refused:
            load(path, ServerSettings)
        assert str(path) in refused.value.message
        assert refused.value.fix == "name a file that this user may read"
