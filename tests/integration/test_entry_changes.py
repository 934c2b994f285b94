"""Changing entries on a real server: by command and by file, all or nothing, seen by agents at once, and in the log."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from grpc import StatusCode

from citadel._wire import admin_pb2, types_pb2
from tests.clock import FakeClock
from tests.servers import Member, Server, refusal, synced
from tests.unit.cli.fake_admin import Program

pytestmark = pytest.mark.integration


@pytest.fixture
def program(server: Server) -> Program:
    return Program(server.settings.listen.admin_socket, FakeClock())


def audited(server: Server) -> list[tuple[str, str, str]]:
    """Who did what to which entry, as it lies on the disk."""
    with closing(sqlite3.connect(server.settings.data_dir / "citadel.db")) as database:
        rows = database.execute("SELECT actor, what, target FROM audit WHERE what LIKE 'entry.%' ORDER BY number")
        return [(str(actor), str(what), str(target)) for actor, what, target in rows]


def written(folder: Path, *lines: str) -> str:
    path = folder / "entries.yaml"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def document(path: str, parent: Member, *fields: str) -> str:
    begin = (f"spiffe_id: spiffe://a.test{path}", f"parent_id: {parent.spiffe_id}", "selectors: [unix:uid:1000]")
    return "\n".join((*begin, *fields))


async def entries_of(server: Server) -> dict[str, types_pb2.Entry]:
    listed = await server.admin().ListEntries(admin_pb2.ListEntriesRequest(page_size=1000))
    return {entry.spiffe_id.removeprefix("spiffe://a.test"): entry for entry in listed.entries}


async def test_an_update_changes_what_is_named_and_nothing_else(
    server: Server, agent: Member, program: Program
) -> None:
    entry = await server.entry("/web", agent, hint="old", dns_names=["web"])
    result = await program("-o", "json", "entry", "update", entry.id, "--ttl", "30m", "--admin", "--clear", "dns-name")
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    assert (shown["x509_svid_ttl"], shown["hint"], shown["dns_names"], shown["admin"]) == ("1800s", "old", [], True)
    assert (shown["revision"], shown["id"]) == (2, entry.id)
    assert audited(server)[-1] == (audited(server)[0][0], "entry.update", entry.id)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (("--hint", "x", "--revision", "7"), 8, "(entry_changed)"),
        (("--spiffe-id", "spiffe://b.test/x"), 3, "(entry_foreign_trust_domain)"),
        (("--spiffe-id", "spiffe://a.test/other"), 5, "(entry_duplicate)"),
        ((), 2, "say what to change"),
        (("--hint", "x", "--clear", "hint"), 2, "cannot go together"),
    ],
)
async def test_an_update_that_is_refused_changes_nothing(
    server: Server, agent: Member, program: Program, arguments: tuple[str, ...], exit_code: int, said: str
) -> None:
    entry = await server.entry("/web", agent)
    await server.entry("/other", agent)
    before, log = await entries_of(server), audited(server)
    result = await program("entry", "update", entry.id, *arguments)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert said in result.stderr
    assert (await entries_of(server), audited(server)) == (before, log)


async def test_of_two_who_change_one_entry_the_second_is_told(server: Server, agent: Member) -> None:
    entry, admin = await server.entry("/web", agent), server.admin()
    for number, outcome in enumerate((None, (StatusCode.FAILED_PRECONDITION, "entry_changed"))):
        wanted = types_pb2.Entry()
        wanted.CopyFrom(entry)
        wanted.hint = str(number)
        call = admin.UpdateEntry(admin_pb2.UpdateEntryRequest(entry=wanted))
        if outcome is None:
            await call
        else:
            assert await refusal(call) == outcome
    assert (await entries_of(server))["/web"].hint == "0"


async def test_agents_see_an_update_at_once(server: Server, agent: Member) -> None:
    other = await server.join("node-2")
    entry, admin = await server.entry("/web", agent), server.admin()
    async with synced(server, agent) as here, synced(server, other) as there:
        await here.next()
        await there.next()
        entry.spiffe_id = "spiffe://a.test/renamed"
        renamed = await admin.UpdateEntry(admin_pb2.UpdateEntryRequest(entry=entry))
        assert list((await here.next()).entries) == [renamed]
        renamed.parent_id = other.spiffe_id
        moved = await admin.UpdateEntry(admin_pb2.UpdateEntryRequest(entry=renamed))
        assert list((await here.next()).removed_entry_ids) == [entry.id]
        assert list((await there.next()).entries) == [moved]


async def test_a_file_is_applied_as_a_whole_and_again_without_effect(
    server: Server, agent: Member, program: Program, tmp_path: Path
) -> None:
    await server.entry("/web", agent)
    gone = await server.entry("/gone", agent)
    file = written(tmp_path, document("/web", agent, "hint: x"), "---", document("/new", agent))
    dry = await program("entry", "apply", "-f", file, "--dry-run")
    assert dry.exit_code == 10, dry.stderr
    assert '  hint: "" -> "x"' in dry.stdout.splitlines()
    assert dry.stdout.splitlines()[-1] == "1 would be created, 1 would be updated, 0 would be deleted, 0 unchanged"
    assert set(await entries_of(server)) == {"/web", "/gone"}

    done = await program("-o", "json", "entry", "apply", "-f", file, "--prune-parent", agent.spiffe_id)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["counts"] == {"created": 1, "updated": 1, "deleted": 1, "unchanged": 0}
    found = await entries_of(server)
    assert (set(found), found["/web"].hint) == ({"/web", "/new"}, "x")
    assert [(what, target) for _, what, target in audited(server)[2:]] == [
        ("entry.update", found["/web"].id),
        ("entry.create", found["/new"].id),
        ("entry.delete", gone.id),
    ]
    again = await program("entry", "apply", "-f", file, "--dry-run")
    assert (again.exit_code, again.stdout) == (
        0,
        "0 would be created, 0 would be updated, 0 would be deleted, 2 unchanged\n",
    )


async def test_what_is_listed_can_be_applied(server: Server, agent: Member, program: Program) -> None:
    await server.entry("/web", agent, hint="ü", dns_names=["web"])
    await server.entry("/rack", "spiffe://a.test/citadel/server", "node:rack:a")
    listed = (await program("-o", "json", "entry", "list")).stdout
    before = await entries_of(server)
    again = await program("entry", "apply", "-f", "-", stdin=listed.encode())
    assert (again.exit_code, again.stdout) == (0, "0 created, 0 updated, 0 deleted, 2 unchanged\n"), again.stderr
    assert await entries_of(server) == before


async def test_one_wrong_entry_stops_all_and_each_is_told_with_its_line(
    server: Server, agent: Member, program: Program, tmp_path: Path
) -> None:
    file = written(
        tmp_path,
        document("/good", agent),
        "---",
        document("/citadel/x", agent, "dns_names: ['*.a.test']"),
        "---",
        document("/good", agent, "hint: again"),
    )
    result = await program("entry", "apply", "-f", file)
    assert (result.exit_code, result.stdout) == (3, "")
    told = [line.removeprefix("error: ") for line in result.stderr.splitlines()]
    places = [line.partition(": ")[0] for line in told if line.startswith(file)]
    assert places == [f"{file}:{line}" for line in (5, 8, 10)]
    assert await entries_of(server) == {}
    assert audited(server) == []


async def test_ten_thousand_entries_in_one_apply(server: Server, agent: Member, program: Program) -> None:
    lines = [
        json.dumps(
            {"spiffe_id": f"spiffe://a.test/w{n}", "parent_id": agent.spiffe_id, "selectors": [f"unix:uid:{n % 50}"]}
        )
        for n in range(10_000)
    ]
    text = "\n---\n".join(lines).encode()
    async with synced(server, agent) as stream:
        await stream.next()
        applying = asyncio.create_task(program("-o", "json", "entry", "apply", "-f", "-", stdin=text))
        while len(stream.entries) < len(lines):
            await stream.next()
        result = await applying
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["counts"]["created"] == len(lines)
    assert (await server.status()).entries == len(lines)
