"""`citadel-cli entry` over a real socket."""

from __future__ import annotations

import json

import pytest

from tests.unit.cli.fake_admin import PAGE_LIMIT, FakeAdmin, Program

WEB = ("--spiffe-id", "spiffe://a.test/web")
ON_A1 = ("--parent-id", "spiffe://a.test/citadel/agent/a1")
UID = ("--selector", "unix:uid:1000")


async def test_create_sends_every_option(admin: FakeAdmin, program: Program) -> None:
    result = await program(
        "-o",
        "json",
        "entry",
        "create",
        *WEB,
        *ON_A1,
        *UID,
        *("--selector", "unix:path:/usr/bin/web"),
        *("--ttl", "90s", "--jwt-ttl", "1m", "--hint", "internal"),
        *("--dns-name", "web.a.test", "--dns-name", "web"),
        *("--federates-with", "b.test", "--expires-in", "1h", "--admin", "--downstream"),
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {
        "id": "e1",
        "spiffe_id": "spiffe://a.test/web",
        "parent_id": "spiffe://a.test/citadel/agent/a1",
        "selectors": ["unix:path:/usr/bin/web", "unix:uid:1000"],
        "x509_svid_ttl": "90s",
        "jwt_svid_ttl": "60s",
        "dns_names": ["web.a.test", "web"],
        "federates_with": ["b.test"],
        "hint": "internal",
        "expires_at": "2026-01-01T01:00:00Z",
        "admin": True,
        "downstream": True,
        "revision": 1,
        "created_at": "2026-01-01T00:00:00Z",
        "origin": "",
    }
    assert list(admin.entries) == ["e1"]


async def test_create_sends_no_more_than_was_said(admin: FakeAdmin, program: Program) -> None:
    result = await program("-o", "json", "entry", "create", *WEB, *ON_A1, *UID)
    shown = json.loads(result.stdout)
    assert (shown["x509_svid_ttl"], shown["jwt_svid_ttl"], shown["expires_at"]) == (None, None, None)
    assert not admin.entries["e1"].admin


async def test_help_says_what_is_not_used_yet(program: Program) -> None:
    options = (await program("entry", "create", "--help")).stdout.split("\n  --")
    later = {option.split()[0] for option in options if "used by later versions" in " ".join(option.split())}
    assert later == {"admin"}


async def test_a_table_for_people(admin: FakeAdmin, program: Program) -> None:  # noqa: ARG001
    result = await program("entry", "create", *WEB, *ON_A1, *UID, "--expires-at", "2026-01-01T02:00:00+01:00")
    lines = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    assert lines["SPIFFE ID"].strip() == "spiffe://a.test/web"
    assert lines["expires"].strip() == "2026-01-01T01:00:00Z (in 1h)"
    assert lines["X.509-SVID lifetime"].strip() == "default"


async def test_an_alias_has_the_server_as_parent(admin: FakeAdmin, program: Program) -> None:
    await program("entry", "create", "--node", "--spiffe-id", "spiffe://a.test/rack", "--selector", "node:rack:a1")
    assert admin.entries["e1"].parent_id == "spiffe://a.test/citadel/server"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        ((*WEB, *UID), 2, "say either --parent-id, or --node"),
        ((*WEB, *UID, *ON_A1, "--node"), 2, "say either --parent-id, or --node"),
        ((*ON_A1, *UID), 2, "Missing option '--spiffe-id'"),
        ((*WEB, *ON_A1, *UID, "--dns-name", ""), 2, "'--dns-name': the value is empty"),
        ((*WEB, *ON_A1, *UID, "--hint", ""), 2, "'--hint': the value is empty"),
        ((*WEB, *ON_A1, *UID, "--ttl", "60"), 2, "'60' is not a duration; write it like 30s, 1h30m or 7d"),
        ((*WEB, *ON_A1, *UID, "--expires-at", "2030-01-01"), 2, "is not a time with an offset"),
        ((*WEB, *ON_A1, *UID, "--expires-at", "soon"), 2, "is not a time with an offset"),
        ((*WEB, *ON_A1, *UID, "--expires-at", "2030-01-01T00:00:00Z", "--expires-in", "1h"), 2, "use one of them"),
        (("--spiffe-id", "http://a", *ON_A1, *UID), 3, "(id_malformed)"),
        ((*WEB, *ON_A1, "--selector", "uid"), 3, "(entry_bad_selector)"),
        ((*WEB, *ON_A1, *UID, "--federates-with", "B.test"), 3, "(trust_domain_malformed)"),
        ((*WEB, *ON_A1), 3, "error: the entry has no selectors (entry_no_selectors)\n  try: give at least one"),
    ],
)
async def test_create_refuses(
    admin: FakeAdmin, program: Program, arguments: tuple[str, ...], exit_code: int, said: str
) -> None:
    result = await program("entry", "create", *arguments)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert said in result.stderr
    assert admin.entries == {}


async def test_a_duplicate_has_its_own_exit_code(admin: FakeAdmin, program: Program) -> None:
    for expected in (0, 5):
        assert (await program("entry", "create", *WEB, *ON_A1, *UID)).exit_code == expected
    assert len(admin.entries) == 1


async def test_show_and_delete(admin: FakeAdmin, program: Program) -> None:
    await program("entry", "create", *WEB, *ON_A1, *UID)
    shown = await program("entry", "show", "e1", "-o", "json")
    deleted = await program("entry", "delete", "e1", "-o", "json")
    assert json.loads(shown.stdout) == json.loads(deleted.stdout)
    assert admin.entries == {}
    for command in ("show", "delete"):
        gone = await program("entry", command, "e1")
        assert (gone.exit_code, gone.stdout) == (4, "")
        assert gone.stderr == "error: there is no entry 'e1' (entry_not_found)\n"


async def test_where_an_entry_comes_from_is_shown_and_listed_by(admin: FakeAdmin, program: Program) -> None:
    for number, origin in enumerate(("", "k8s:main/shop/web-0", "k8s:other/shop/web-0")):
        await program("entry", "create", "--spiffe-id", f"spiffe://a.test/w{number}", *ON_A1, *UID)
        admin.entries[f"e{number + 1}"].origin = origin

    async def listed(*options: str) -> list[str]:
        result = await program("entry", "list", "-o", "json", *options)
        return [each["origin"] for each in json.loads(result.stdout)["entries"]]

    assert await listed("--origin", "k8s:main/") == ["k8s:main/shop/web-0"]
    assert await listed("--by-hand") == [""]
    assert (await program("entry", "list", "--by-hand", "--origin", "k8s:")).exit_code == 2
    assert "k8s:main/shop/web-0" in (await program("entry", "list")).stdout
    shown = [(await program("entry", "show", entry_id)).stdout.splitlines() for entry_id in ("e1", "e2")]
    told = [line.split("  ", 1)[1].strip() for lines in shown for line in lines if line.startswith("origin")]
    assert told == ["registered by hand", "k8s:main/shop/web-0"]


async def test_list_pages_through_everything(admin: FakeAdmin, program: Program) -> None:
    for number in range(2 * PAGE_LIMIT + 1):
        await program("entry", "create", "--spiffe-id", f"spiffe://a.test/w{number}", *ON_A1, *UID)
    listed = json.loads((await program("entry", "list", "-o", "json")).stdout)
    assert [entry["id"] for entry in listed["entries"]] == list(admin.entries)
    table = (await program("entry", "list")).stdout.splitlines()
    assert table[0].split()[0] == "ID"
    assert [line.split()[0] for line in table[1:]] == list(admin.entries)


async def test_list_filters(admin: FakeAdmin, program: Program) -> None:  # noqa: ARG001
    for name, agent in (("web", "a1"), ("web", "a2"), ("db", "a1")):
        parent = f"spiffe://a.test/citadel/agent/{agent}"
        await program("entry", "create", "--spiffe-id", f"spiffe://a.test/{name}", "--parent-id", parent, *UID)
    for arguments, ids in ((WEB, ["e1", "e2"]), (ON_A1, ["e1", "e3"]), ((*WEB, *ON_A1), ["e1"])):
        listed = json.loads((await program("entry", "list", *arguments, "-o", "json")).stdout)
        assert [entry["id"] for entry in listed["entries"]] == ids


async def test_an_empty_list(admin: FakeAdmin, program: Program) -> None:  # noqa: ARG001
    assert (await program("entry", "list")).stdout == "no entries\n"
    assert json.loads((await program("entry", "list", "-o", "json")).stdout) == {"entries": []}


async def test_ids_are_never_cut_when_piped(admin: FakeAdmin, program: Program) -> None:  # noqa: ARG001
    long = "spiffe://a.test/" + "x" * 1500
    await program("entry", "create", "--spiffe-id", long, *ON_A1, *UID)
    assert long in (await program("entry", "list")).stdout
    assert long in (await program("entry", "show", "e1")).stdout
