"""What the settings of the server refuse, each with its line; the agent's stand beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ca.settings import ServerSettings
from citadel.config.loader import load
from citadel.errors import InvalidArgument

LEAST = "trust_domain: a.test\ndata_dir: d\nkeys: {kek_env: KEK}\n"


def load_server(tmp_path: Path, line: str) -> ServerSettings:
    path = tmp_path / "server.yaml"
    path.write_text(f"{LEAST}{line}\n")
    return load(path, ServerSettings)


_HIDDEN = "'store_url' is wrong (value not shown: it may be a secret): "
REFUSED = [
    ("listen: {probes: 0.0.0.0:1}", "'listen.probes' is wrong (value '0.0.0.0:1'): not a loopback address"),
    ("listen: {probes: localhost:1}", "'listen.probes' is wrong (value 'localhost:1'): not a loopback address"),
    (
        "store_url_env: postgresql://u:p@h/d",
        "'store_url_env' is wrong (value not shown: it may be a secret): must be the",
    ),
    ("store_url: foo", "'store_url' is wrong (value not shown: it may be a secret): must be a URL like sqlite+"),
    ("store_url: sqlite:///x", "'store_url' is wrong"),
    ("store_url: 'postgres://u:p@h/d'", f"{_HIDDEN}must begin with postgresql://, not"),
    *(
        (
            f"store_url: 'postgresql://u:{password}@h/d'",
            f"{_HIDDEN}must have / # ? @ or % of a password, a name or a value percent-",
        )
        for password in ("p@ss/w#rd", "p/w", "p?w", "p#w", "p@w")
    ),
    *(
        (f"store_url: 'postgresql://{rest}'", f"{_HIDDEN}must have / # ? @ or % of a password, a name or a value")
        for rest in ("h:5432/d?user=u@tenant", "h/d@x", "h/d?application_name=c#1")
    ),
    ("authorities: {root_lifetime: 9999999d}", "'authorities.root_lifetime' is wrong (value '9999999d'): must be"),
    ("authorities: {issuer_lifetime: 0s}", "'authorities.issuer_lifetime' is wrong (value '0s'): should be greater"),
    ("authorities: {issuer_lifetime: 366d}", "'authorities' is wrong: issuer_lifetime must be at most root_lifetime"),
    ("authorities: {issuer_lifetime: 30m}", "'svids' is wrong: default_lifetime (1h) must be at most authorities."),
    (
        "authorities: {jwt_lifetime: 4m}",
        "'svids' is wrong: jwt_default_lifetime (5m) must be at most authorities.jwt_l",
    ),
    ("authorities: {jwt_key: ed25519}", "'authorities.jwt_key' is wrong (value 'ed25519')"),
    ("svids: {jwt_max_lifetime: 25h}", "'svids.jwt_max_lifetime' is wrong (value '25h')"),
    ("svids: {jwt_max_lifetime: 4m}", "'svids' is wrong: jwt_default_lifetime must be at most jwt_max_lifetime"),
    ("svids: {default_lifetime: 8d, max_lifetime: 9d}", "'svids' is wrong: default_lifetime (8d) must be at most auth"),
    ("svids: {default_lifetime: 999ms}", "'svids.default_lifetime' is wrong (value '999ms')"),
    ("svids: {max_lifetime: 59m}", "'svids' is wrong: default_lifetime must be at most max_lifetime"),
    ("svids: {agent_lifetime: 25h}", "'svids' is wrong: agent_lifetime must be at most max_lifetime"),
    ("svids: {agent_lifetime: 0s}", "'svids.agent_lifetime' is wrong (value '0s')"),
    ("svids: {backdate: 61m}", "'svids.backdate' is wrong (value '61m')"),
    ("svids: {backdate: -1s}", "'svids.backdate' is wrong (value '-1s')"),
    ("limits: {token_lifetime: 0s}", "'limits.token_lifetime' is wrong (value '0s')"),
    ("limits: {token_lifetime: 25h}", "'limits.token_lifetime' is wrong (value '25h')"),
    ("oidc: {issuer: 'http://a.test'}", "'oidc.issuer' is wrong (value 'http://a.test'): must be a URL like https://"),
    ("oidc: {issuer: 'https://A.test'}", "'oidc.issuer' is wrong"),
    ("oidc: {issuer: 'https://a.test/'}", "'oidc.issuer' is wrong"),
    ("oidc: {issuer: 'https://a.test:443'}", "'oidc.issuer' is wrong"),
    ("oidc: {issuer: 'https://a.test:443/b'}", "'oidc.issuer' is wrong"),
    ("oidc: {issuer: 'https://a.test/b/../c'}", "'oidc.issuer' is wrong"),
    ("oidc: {issuer: 'https://a.test/b?c'}", "'oidc.issuer' is wrong"),
    ("oidc: {issuer: 'https://a.test#c'}", "'oidc.issuer' is wrong"),
    ("oidc: {issuer: 'https://u@a.test'}", "'oidc.issuer' is wrong"),
    ("oidc: {issuer: 'https://a.test/%62'}", "'oidc.issuer' is wrong"),
    (f"oidc: {{issuer: 'https://a.test/{'b' * 241}'}}", "'oidc.issuer' is wrong"),
    ("oidc: {issuer: 'https://a.test', listen: 0.0.0.0:443}", "'oidc' is wrong: listen needs certificate_file and"),
    ("oidc: {listen: 0.0.0.0:443, certificate_file: c, key_file: k}", "'oidc' is wrong: listen needs issuer too"),
    (
        "oidc: {issuer: 'https://a.test', max_age: 7h}\nauthorities: {jwt_lifetime: 1d}",
        "'oidc' is wrong: max_age (7h) must be at most a quarter of authorities.jwt_lifetime (6h)",
    ),
    (
        "federation: {listen: 0.0.0.0:443, refresh_hint: 15m}\nauthorities: {issuer_lifetime: 2h}",
        "'federation' is wrong: 3 times refresh_hint (45m) must be at most a quarter of authorities.issuer_lifetime",
    ),
    (
        "federation: {listen: 0.0.0.0:443, refresh_hint: 5m}\nauthorities: {jwt_lifetime: 59m}",
        "'federation' is wrong: 3 times refresh_hint (15m) must be at most a quarter of authorities.jwt_lifetime",
    ),
    ("rotation: {jwt_at: 1}", "'rotation.jwt_at' is wrong (value '1')"),
    ("oidc: {max_age: 999ms}", "'oidc.max_age' is wrong (value '999ms')"),
    ("oidc: {max_age: 25h}", "'oidc.max_age' is wrong (value '25h')"),
    ("limits: {joins_per_second: 0}", "'limits.joins_per_second' is wrong (value '0')"),
]


@pytest.mark.parametrize(("line", "problem"), REFUSED)
def test_a_setting_that_cannot_work_is_refused(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        load_server(tmp_path, line)
    (said,) = refused.value.message.splitlines()
    where, _, what = said.partition(": ")
    assert what.startswith(problem)
    # The default of a section that is not written has no line.
    assert where == f"{tmp_path / 'server.yaml'}" + ("" if "'svids'" in what and "svids" not in line else ":4")


@pytest.mark.parametrize(
    "line",
    [
        "listen: {probes: '[::1]:1'}",
        "listen: {probes: 0.0.0.0:1, probes_outside: true}",
        "listen: {probes_outside: true, probes: '[::]:1'}",
        "store_url_env: CITADEL_STORE_URL",
        "store_url: sqlite+aiosqlite:////var/lib/x.db",
        "store_url: postgresql+asyncpg://u:p@h/d",
        "store_url: postgresql://h/d",
        "authorities: {root_lifetime: 36525d}",
        "authorities: {issuer_lifetime: 1h}",
        "svids: {default_lifetime: 1s, backdate: 0s}",
        "svids: {backdate: 1h}",
        "limits: {token_lifetime: 1d, joins_per_second: 0.01}",
        "oidc: {issuer: 'https://a.test'}",
        "oidc: {issuer: 'https://[::1]:8445', listen: '[::1]:8445', certificate_file: c, key_file: k, max_age: 1d}",
        f"oidc: {{issuer: 'https://a.test:8445/x-1/{'b' * 231}', max_age: 1s}}",
        "federation: {refresh_hint: 1d}\nauthorities: {issuer_lifetime: 1h}",  # it is not served
        "federation: {listen: 0.0.0.0:443, refresh_hint: 10m}\nauthorities: {issuer_lifetime: 2h, jwt_lifetime: 2h}",
    ],
)
def test_settings_up_to_the_bounds_are_taken(tmp_path: Path, line: str) -> None:
    load_server(tmp_path, line)


@pytest.mark.parametrize("name", ["kek", "KEK-1", "1KEK", "KEK ", "", "A" * 42 + "b"])
def test_what_is_no_variable_in_capitals_is_no_name_of_one(name: str) -> None:
    with pytest.raises(ValueError, match="name of an environment variable in capitals"):
        ServerSettings.model_validate({"trust_domain": "a.test", "data_dir": "d", "keys": {"kek_env": name}})


def test_the_url_of_the_store_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_server(tmp_path, "store_url_env: CITADEL_STORE_URL")
    with pytest.raises(InvalidArgument, match="variable CITADEL_STORE_URL must be a URL like"):
        _ = settings.database_url
    monkeypatch.setenv("CITADEL_STORE_URL", "mysql://u:secret@h/d")
    with pytest.raises(InvalidArgument, match="variable CITADEL_STORE_URL must be") as refused:
        _ = settings.database_url
    assert "secret" not in str(refused.value)
    monkeypatch.setenv("CITADEL_STORE_URL", "postgresql+asyncpg://u:p@h/d")
    assert settings.database_url == "postgresql+asyncpg://u:p@h/d"
    assert settings.keys_in_database


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p%40ss%2Fw%23rd@h/d",
        "postgresql+asyncpg://u:p@h:5432/d?sslmode=verify-full&sslrootcert=/a@b.pem",
        "postgresql://h/d",
        "postgresql:///d?host=/run/postgresql&user=u@h",
        "postgresql://h:5432/d%40x?user=u%40tenant&application_name=c%231",
    ],
)
def test_urls_of_stores_that_say_what_they_mean_are_taken(tmp_path: Path, url: str) -> None:
    assert load_server(tmp_path, f"store_url: '{url}'").database_url == url


def test_two_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="set at most one of store_url and store_url_env"):
        load_server(tmp_path, "store_url_env: A_URL\nstore_url: postgresql://h/d")


VAULT = "vault: {address: https://v.test:8200, login: {token: {token_file: t}}}"


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("{rotate_root: true}", "rotate_root needs alone"),
        ("{rotate_root: true, alone: true, issuer: first}", "rotate_root needs the default issuer"),
        ("{mount: ../pki}", "is not a mount path"),
        ("{issuer: a/b}", "is not a name in Vault"),
        ("{poll: 1ms}", "'upstream.vault.poll' is wrong"),
    ],
)
def test_a_root_in_vault_that_cannot_work_is_refused(tmp_path: Path, section: str, problem: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        load_server(tmp_path, f"{VAULT}\nupstream: {{vault: {section}}}")
    assert problem in str(refused.value)


@pytest.mark.parametrize(("domain", "is_taken"), [("a.test", True), ("a_b.test", False), ("10.0.0.1", False)])
def test_constraints_are_refused_for_a_name_that_they_would_shut_out(
    tmp_path: Path, domain: str, *, is_taken: bool
) -> None:
    path = tmp_path / "server.yaml"
    path.write_text(f"{LEAST}{VAULT}\nupstream: {{vault: {{constrained: true}}}}\n".replace("a.test", domain))
    if is_taken:
        assert load(path, ServerSettings).upstream.kind == "vault"
        return
    with pytest.raises(InvalidArgument, match=f"vault.constrained cannot be for {domain}"):
        load(path, ServerSettings)
