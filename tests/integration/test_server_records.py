"""The records of a running server: every act and refusal is in the audit log, within bounds, and never a secret."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import ec
from grpc import aio

from ca.ledger.chain import Head, Log, Segment
from ca.ledger.checkpoints import Checkpoint, CheckpointKind, CheckpointSigner
from citadel import logs
from citadel._wire import (
    admin_pb2,
    agent_api_pb2,
    agents_pb2,
    agents_pb2_grpc,
    backup_pb2,
    backup_pb2_grpc,
    bootstrap_pb2,
    federation_pb2,
    federation_pb2_grpc,
    insight_pb2,
    insight_pb2_grpc,
    records_pb2,
    records_pb2_grpc,
    revocation_pb2,
    rotation_pb2,
    rotation_pb2_grpc,
    trust_pb2,
    types_pb2,
)
from citadel.config.types import LogSettings
from cli.citadel_cli import citadel_cli
from cli.server_services import ADMIN_SERVICES
from tests.csrs import csr, new_key
from tests.foreign import ForeignDomain, endpoint_of
from tests.servers import Server, refusal, running_server, server_settings, sign

pytestmark = pytest.mark.integration


def records(server: Server) -> records_pb2_grpc.RecordsAsyncStub:
    path = server.settings.listen.admin_socket
    return records_pb2_grpc.RecordsStub(server._open(aio.insecure_channel(f"unix:{path}")))


async def acts(server: Server, **query: Any) -> list[records_pb2.RecordedAct]:
    return list((await records(server).ListActs(records_pb2.ListActsRequest(page_size=1000, **query))).acts)


async def refusals(server: Server, at_least: int = 1) -> list[records_pb2.RecordedAct]:
    """The refusals, as soon as the background has written so many."""
    async with asyncio.timeout(10):
        while len(found := await acts(server, refused_only=True)) < at_least:
            await asyncio.sleep(0.02)
    return found


async def command(server: Server, *arguments: str) -> Result:
    path = str(server.settings.listen.admin_socket)
    return await asyncio.to_thread(CliRunner().invoke, citadel_cli, ["--socket", path, "-o", "json", *arguments])


@pytest.mark.invariant(10)
async def test_a_refused_agent_is_in_the_audit_log_by_its_name(server: Server) -> None:
    agent = await server.join("node-1")
    await sign(server.agents(agent), ("no-such-entry", csr()))
    (found,) = await refusals(server)
    assert (found.actor_kind, found.actor, found.what, found.reason, found.count) == (
        "spiffe",
        agent.spiffe_id,
        "SignX509Svids",
        "entry_not_authorized",
        1,
    )


@pytest.mark.invariant(10)
async def test_a_refused_call_of_an_agent_and_of_an_administrator_has_its_caller(server: Server) -> None:
    agent = await server.join("node-1")
    with pytest.raises(aio.AioRpcError):
        await server.agents(agent).RenewAgent(agent_api_pb2.RenewAgentRequest(csr=b"garbage"))
    await refusal(server.admin().DeleteEntry(admin_pb2.DeleteEntryRequest(id="no-such-entry")))
    found = {(one.actor_kind, one.actor, one.what, one.reason) for one in await refusals(server, at_least=2)}
    assert found == {
        ("spiffe", agent.spiffe_id, "/citadel.v1.AgentApi/RenewAgent", "csr_malformed"),
        ("local", f"uid:{os.getuid()}", "/citadel.v1.Admin/DeleteEntry", "entry_not_found"),
    }


@pytest.mark.invariant(10)
async def test_a_flood_of_bad_joins_makes_a_handful_of_rows(tmp_path: Path) -> None:
    settings = server_settings(tmp_path, limits={"joins_per_second": 50}, lease={"duration": "60s"})
    async with running_server(settings) as server:
        bootstrap, request = server.bootstrap(), csr()

        async def join(number: int) -> None:
            with contextlib.suppress(aio.AioRpcError):
                await bootstrap.Join(bootstrap_pb2.JoinRequest(token=f"made-up-{number}", csr=request))

        for start in range(0, 3000, 100):
            await asyncio.gather(*(join(number) for number in range(start, start + 100)))
        refused = dict((await server.status()).refused)
    assert sum(refused.values()) == 3000
    with closing(sqlite3.connect(settings.data_dir / "citadel.db")) as database:
        rows = database.execute("SELECT count, actor_kind FROM audit WHERE reason != ''").fetchall()
    assert len(rows) < 12
    assert sum(count for count, _ in rows) == 3000  # the last sums were written at the stop
    assert {kind for _, kind in rows} == {"anonymous"}


@pytest.mark.invariant(10)
async def test_no_token_and_no_key_is_in_the_log_or_the_store(tmp_path: Path) -> None:
    stream, settings = io.StringIO(), server_settings(tmp_path)
    logs.configure(LogSettings(level="debug"), stream=stream)
    async with running_server(settings) as server:
        used, unused = await server.token("node-1"), await server.token("node-2")
        key = new_key()
        await server.bootstrap().Join(bootstrap_pb2.JoinRequest(token=used, csr=csr(key)))
        for bad in (used, f"{unused}x", unused):  # used by another, unknown, with garbage
            await refusal(server.bootstrap().Join(bootstrap_pb2.JoinRequest(token=bad, csr=b"x" * 10)))
        await refusals(server, at_least=2)
    kek = (tmp_path / "kek").read_text().strip()
    stored = b"".join(path.read_bytes() for path in settings.data_dir.glob("citadel.db*"))
    said = stream.getvalue()
    assert "refused" in said
    for secret in (used, unused, kek):
        assert secret not in said
        assert secret.encode() not in stored


async def test_the_commands_list_show_export_verify_and_prune(server: Server, tmp_path: Path) -> None:
    agent = await server.join("node-1")
    entry = await server.entry("/web", agent)
    await sign(server.agents(agent), *[(entry.id, csr())] * 3)
    listed = json.loads((await command(server, "ledger", "list", "--spiffe-id", "spiffe://a.test/web")).stdout)
    assert [one["requested_by"] for one in listed] == [agent.spiffe_id] * 3
    shown = json.loads((await command(server, "ledger", "show", listed[0]["serial"].upper())).stdout)
    assert shown == listed[0]
    missing = await command(server, "ledger", "show", "00ff")
    assert (missing.exit_code, json.loads(missing.stderr)["error"]["reason"]) == (4, "record_not_found")

    told = json.loads((await command(server, "audit", "list", "--what", "entry")).stdout)
    assert [(one["actor"], one["what"], one["target"]) for one in told] == [
        (f"uid:{os.getuid()}", "entry.create", entry.id)
    ]

    kept = tmp_path / "checkpoints.jsonl"
    assert (await command(server, "audit", "export", "--write", str(kept))).exit_code == 0
    assert kept.stat().st_mode & 0o777 == 0o600
    key = json.loads(kept.read_text().splitlines()[-1])["key"]
    assert json.loads((await command(server, "audit", "keys")).stdout) == [{"sha256": key}]
    good = await command(server, "audit", "verify", "--checkpoints", str(kept), "--key", key)
    reports = {one["log"]: one for one in json.loads(good.stdout)}
    assert (good.exit_code, reports["ledger"]["intact"], reports["audit"]["intact"]) == (0, True, True)
    assert reports["ledger"]["rows"] == len(server.ledger.serials())
    stranger = await command(server, "audit", "verify", "--key", "00" * 32)
    assert stranger.exit_code == 8

    none = json.loads((await command(server, "ledger", "prune", "--older-than", "1d", "--yes")).stdout)
    assert none["rows"] == 0  # nothing has expired


async def test_a_forged_anchor_does_not_hold_against_checkpoints_that_were_kept(server: Server, tmp_path: Path) -> None:
    """Whoever can change the store can add a key of their own to it, and sign that everything was pruned by age."""
    agent = await server.join("node-1")
    entry = await server.entry("/web", agent)
    await sign(server.agents(agent), *[(entry.id, csr())] * 5)
    kept = tmp_path / "checkpoints.jsonl"
    await command(server, "audit", "export", "--write", str(kept))
    path = server.settings.data_dir / "citadel.db"
    key = ec.generate_private_key(ec.SECP256R1())
    forger = CheckpointSigner(key, public_key=key.public_key())
    with closing(sqlite3.connect(path)) as database:
        await _prune_all_as(forger, database)
    alone = await command(server, "audit", "verify")
    assert alone.exit_code == 0  # nothing in the store shows it, as the command says
    found = await command(server, "audit", "verify", "--checkpoints", str(kept))
    assert (found.exit_code, json.loads(found.stderr)["error"]["reason"]) == (8, "chain_broken")
    problems = [broken["problem"] for broken in json.loads(found.stdout)[0]["breaks"]]
    assert any(f"signed by the key {forger.fingerprint}, which is not trusted" in problem for problem in problems)
    empty = tmp_path / "empty"
    empty.touch()
    assert (await command(server, "audit", "verify", "--checkpoints", str(empty))).exit_code == 3


async def _prune_all_as(forger: CheckpointSigner, database: sqlite3.Connection) -> None:
    ((writer, begun_at, unchained),) = database.execute(
        "SELECT writer, begun_at, unchained FROM segment WHERE log = 'ledger' AND after_writer = ''"
    )
    begun = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=begun_at)
    segment = Segment(log=Log.LEDGER, writer=writer, begun_at=begun, unchained=unchained)
    newest = "SELECT position, hash FROM ledger ORDER BY position DESC LIMIT 1"
    ((position, row_hash),) = database.execute(newest)
    anchor = Checkpoint(
        log=Log.LEDGER,
        head=Head(writer, position, row_hash),
        at=datetime.now(UTC),
        kind=CheckpointKind.ANCHOR,
        genesis=segment.genesis().hash,
    )
    database.execute("DELETE FROM ledger")
    database.execute("DELETE FROM checkpoint WHERE log = 'ledger'")
    database.execute(
        "INSERT INTO record_key (fingerprint, key_id, public_key, created_at) VALUES (?, 'forged', ?, 1)",
        (forger.fingerprint, forger.public_key),
    )
    database.execute(
        "INSERT INTO checkpoint (log, writer, position, kind, jws) VALUES ('ledger', ?, ?, 'anchor', ?)",
        (writer, position, await forger.sign(anchor)),
    )
    database.commit()


async def test_a_row_that_was_taken_out_is_found_with_the_server_and_without(server: Server, tmp_path: Path) -> None:
    agent = await server.join("node-1")
    entry = await server.entry("/web", agent)
    await sign(server.agents(agent), *[(entry.id, csr())] * 5)
    kept = tmp_path / "checkpoints.jsonl"
    await command(server, "audit", "export", "--write", str(kept))
    path = server.settings.data_dir / "citadel.db"
    with closing(sqlite3.connect(path)) as database:
        last = server.ledger.serials()[-1]
        database.execute("DELETE FROM ledger WHERE serial = ?", [last])
        database.commit()
    for where in ([], ["--store", f"sqlite+aiosqlite:///{path}"]):
        found = await command(server, "audit", "verify", "--checkpoints", str(kept), *where)
        assert (found.exit_code, json.loads(found.stderr)["error"]["reason"]) == (8, "chain_broken")
        ledger, audit = json.loads(found.stdout)
        assert len(ledger["breaks"]) == 1
        assert "missing at the end" in ledger["breaks"][0]["problem"]
        assert audit["intact"]


async def test_a_stop_signs_all_that_there_is_and_the_next_start_goes_on(tmp_path: Path) -> None:
    settings = server_settings(tmp_path)
    for _ in range(2):
        async with running_server(settings) as server:
            await server.token("node-1")
    url = f"sqlite+aiosqlite:///{settings.data_dir / 'citadel.db'}"
    done = await command(server, "audit", "verify", "--store", url)
    reports = json.loads(done.stdout)
    assert done.exit_code == 0
    assert [(one["intact"], one["unsigned_rows"]) for one in reports] == [(True, 0), (True, 0)]
    assert [one["rows"] for one in reports] == [2, 2]  # the server's own certificate, and a token


async def test_a_start_says_that_the_end_of_a_log_was_changed_and_serves(tmp_path: Path) -> None:
    settings = server_settings(tmp_path)
    async with running_server(settings):
        pass
    with closing(sqlite3.connect(settings.data_dir / "citadel.db")) as database:
        database.execute("DELETE FROM checkpoint")  # a crash leaves rows that are not signed yet, too
        database.execute("UPDATE ledger SET spiffe_id = 'spiffe://a.test/evil'")
        database.commit()
    async with running_server(settings) as server:
        (found,) = await refusals(server)
        assert (found.actor_kind, found.what, found.reason) == ("server", "chain.broken", "chain_broken")
        assert "row 1 of writer" in found.detail
        assert await server.token("node-1")


@pytest.mark.parametrize("token", ["x", "1", "1.x", "9" * 40 + ".1"])
async def test_a_made_up_page_token_is_refused(server: Server, token: str) -> None:
    for ask in (
        records(server).ListActs(records_pb2.ListActsRequest(page_token=token)),
        records(server).ListCertificates(records_pb2.ListCertificatesRequest(page_token=token)),
    ):
        assert await refusal(ask) == (grpc.StatusCode.INVALID_ARGUMENT, "request_malformed")


# What changes nothing. A method that is neither here nor in the table below fails the test: decide which it is.
READS = {
    "Admin": {"GetEntry", "ListEntries", "GetOwnBundle", "GetStatus"},
    "AgentAdmin": {"ListAgents", "GetAgent"},
    "Backup": set(),
    "Federations": {"ListFederations", "GetFederation"},
    "Bundles": {"ListBundles", "GetBundle"},
    "Insight": {"ListProxies", "ExplainIdentity"},
    "Records": {"ListCertificates", "ListActs", "GetChain", "ReadChain"},
    "Revocations": {"ListRevocations"},
    "Rotations": {"PlanRotation", "WatchRotation", "GetRotation", "ListRotations"},
    "TrustFacts": {"GetTrustFacts"},
}


async def _create_token(server: Server) -> None:
    await server.token("node-9")


async def _create_entry(server: Server) -> None:
    await server.entry("/new", "spiffe://a.test/citadel/agent/node-1")


async def _update_entry(server: Server) -> None:
    entry = await server.entry("/web", "spiffe://a.test/citadel/agent/node-1")
    entry.hint = "changed"
    await server.admin().UpdateEntry(admin_pb2.UpdateEntryRequest(entry=entry))


async def _delete_entry(server: Server) -> None:
    entry = await server.entry("/web", "spiffe://a.test/citadel/agent/node-1")
    await server.admin().DeleteEntry(admin_pb2.DeleteEntryRequest(id=entry.id))


async def _apply_entries(server: Server) -> None:
    parent = "spiffe://a.test/citadel/agent/node-1"
    entry = types_pb2.Entry(spiffe_id="spiffe://a.test/applied", parent_id=parent, selectors=["unix:uid:1"])
    call = server.admin().ApplyEntries(iter([admin_pb2.ApplyEntriesRequest(entries=[entry])]))
    answers = [answer async for answer in call]
    assert not any(answer.problems for answer in answers)


def _agents(server: Server) -> agents_pb2_grpc.AgentAdminAsyncStub:
    return agents_pb2_grpc.AgentAdminStub(server._open(aio.insecure_channel(_target(server))))


def _target(server: Server) -> str:
    return f"unix:{server.settings.listen.admin_socket}"


async def _ban(server: Server) -> None:
    await _agents(server).BanAgent(agents_pb2.BanAgentRequest(agent="node-1", reason="it was stolen"))


async def _unban(server: Server) -> None:
    await _ban(server)
    await _agents(server).UnbanAgent(agents_pb2.UnbanAgentRequest(agent="node-1", reason="it was found"))


async def _evict(server: Server) -> None:
    await _agents(server).EvictAgent(agents_pb2.EvictAgentRequest(agent="node-1", reason="gone"))


def _rotations(server: Server) -> rotation_pb2_grpc.RotationsAsyncStub:
    return rotation_pb2_grpc.RotationsStub(server._open(aio.insecure_channel(_target(server))))


async def _rotate(server: Server) -> None:
    # `node-1` has joined and is away: the rotation waits for it.
    await _rotations(server).StartRotation(rotation_pb2.StartRotationRequest(kind="root", why="a test"))


async def _pause_rotation(server: Server) -> None:
    await _rotate(server)
    await _rotations(server).PauseRotation(rotation_pb2.PauseRotationRequest(why="a test"))


async def _resume_rotation(server: Server) -> None:
    await _pause_rotation(server)
    await _rotations(server).ResumeRotation(rotation_pb2.ResumeRotationRequest(why="a test"))


async def _skip_holder(server: Server) -> None:
    await _rotate(server)
    await _rotations(server).SkipHolder(rotation_pb2.SkipHolderRequest(name="node-7", why="a test"))


async def _abort_rotation(server: Server) -> None:
    await _rotate(server)
    await _rotations(server).AbortRotation(rotation_pb2.AbortRotationRequest(why="a test"))


async def _revoke(server: Server) -> None:
    await server.revocations().Revoke(revocation_pb2.RevokeRequest(target="node-1", reason="a test"))


async def _lift_revocation(server: Server) -> None:
    await _revoke(server)
    await server.revocations().LiftRevocation(
        revocation_pb2.LiftRevocationRequest(id="spiffe://a.test/citadel/agent/node-1", reason="a test")
    )


async def _mint(server: Server) -> None:
    insight = insight_pb2_grpc.InsightStub(server._open(aio.insecure_channel(_target(server))))
    request = insight_pb2.MintX509SvidRequest(spiffe_id="spiffe://a.test/by-hand", csr=csr(), why="a test")
    await insight.MintX509Svid(request)


def _bundles(server: Server) -> federation_pb2_grpc.BundlesAsyncStub:
    return federation_pb2_grpc.BundlesStub(server._open(aio.insecure_channel(_target(server))))


async def _set_bundle(server: Server) -> None:
    bundle = types_pb2.Bundle(trust_domain="b.test", json=b'{"keys":[]}')
    await _bundles(server).SetBundle(federation_pb2.SetBundleRequest(bundle=bundle, why="a test"))


async def _delete_bundle(server: Server) -> None:
    await _set_bundle(server)
    await _bundles(server).DeleteBundle(federation_pb2.DeleteBundleRequest(trust_domain="b.test", why="a test"))


async def _backup(server: Server) -> None:
    backup = backup_pb2_grpc.BackupStub(server._open(aio.insecure_channel(_target(server))))
    assert [part async for part in backup.MakeBackup(backup_pb2.MakeBackupRequest())]


def _federations(server: Server) -> federation_pb2_grpc.FederationsAsyncStub:
    return federation_pb2_grpc.FederationsStub(server._open(aio.insecure_channel(_target(server))))


@asynccontextmanager
async def _federated(server: Server) -> AsyncIterator[federation_pb2_grpc.FederationsAsyncStub]:
    domain, federations = ForeignDomain(), _federations(server)
    async with endpoint_of(domain) as endpoint:
        request = federation_pb2.CreateFederationRequest(
            trust_domain="b.test",
            endpoint_url=endpoint.url,
            profile="https_spiffe",
            endpoint_spiffe_id="spiffe://b.test/endpoint",
            bootstrap=types_pb2.Bundle(trust_domain="b.test", json=domain.bundle().to_json()),
            why="a test",
        )
        assert not (await federations.CreateFederation(request)).last_error
        yield federations


async def _create_federation(server: Server) -> None:
    async with _federated(server):
        pass


async def _refresh_federation(server: Server) -> None:
    async with _federated(server) as federations:
        await federations.RefreshFederation(
            federation_pb2.RefreshFederationRequest(trust_domain="b.test", why="a test")
        )


async def _delete_federation(server: Server) -> None:
    async with _federated(server) as federations:
        await federations.DeleteFederation(federation_pb2.DeleteFederationRequest(trust_domain="b.test", why="a test"))


async def _prune(server: Server) -> None:
    request = records_pb2.PruneRecordsRequest(log=records_pb2.RECORD_LOG_AUDIT)
    request.before.FromDatetime(datetime.now(UTC))
    await records(server).PruneRecords(request)


ACTS: dict[tuple[str, str], tuple[Callable[[Server], Awaitable[None]], str]] = {
    ("Admin", "CreateToken"): (_create_token, "token.create"),
    ("Admin", "CreateEntry"): (_create_entry, "entry.create"),
    ("Admin", "UpdateEntry"): (_update_entry, "entry.update"),
    ("Admin", "DeleteEntry"): (_delete_entry, "entry.delete"),
    ("Admin", "ApplyEntries"): (_apply_entries, "entry.create"),
    ("AgentAdmin", "BanAgent"): (_ban, "agent.ban"),
    ("AgentAdmin", "UnbanAgent"): (_unban, "agent.unban"),
    ("AgentAdmin", "EvictAgent"): (_evict, "agent.evict"),
    ("Backup", "MakeBackup"): (_backup, "backup.make"),
    ("Federations", "CreateFederation"): (_create_federation, "federation.create"),
    ("Federations", "RefreshFederation"): (_refresh_federation, "federation.refresh"),
    ("Federations", "DeleteFederation"): (_delete_federation, "federation.delete"),
    ("Bundles", "SetBundle"): (_set_bundle, "bundle.set"),
    ("Bundles", "DeleteBundle"): (_delete_bundle, "bundle.delete"),
    ("Insight", "MintX509Svid"): (_mint, "svid.mint"),
    ("Records", "PruneRecords"): (_prune, "audit.prune"),
    ("Revocations", "Revoke"): (_revoke, "revocation.revoke"),
    ("Revocations", "LiftRevocation"): (_lift_revocation, "revocation.lift"),
    ("Rotations", "StartRotation"): (_rotate, "rotation.start"),
    ("Rotations", "PauseRotation"): (_pause_rotation, "rotation.pause"),
    ("Rotations", "ResumeRotation"): (_resume_rotation, "rotation.resume"),
    ("Rotations", "SkipHolder"): (_skip_holder, "rotation.skip"),
    ("Rotations", "AbortRotation"): (_abort_rotation, "rotation.abort"),
}


@pytest.mark.invariant(10)
def test_every_method_of_the_admin_socket_is_known_to_read_or_to_act() -> None:
    files = (admin_pb2, agents_pb2, backup_pb2, insight_pb2, records_pb2, revocation_pb2, rotation_pb2, trust_pb2)
    services = {name: service for file in files for name, service in file.DESCRIPTOR.services_by_name.items()}
    services["Federations"] = federation_pb2.DESCRIPTOR.services_by_name["Federations"]
    services["Bundles"] = federation_pb2.DESCRIPTOR.services_by_name["Bundles"]
    assert {f"citadel.v1.{name}" for name in services} == set(ADMIN_SERVICES)
    for name, service in services.items():
        acting = {method for service_name, method in ACTS if service_name == name}
        assert {method.name for method in service.methods} == READS[name] | acting
        assert not READS[name] & acting


@pytest.mark.invariant(10)
@pytest.mark.parametrize("method", ACTS, ids=".".join)
async def test_every_administrative_act_is_in_the_audit_log(server: Server, method: tuple[str, str]) -> None:
    await server.join("node-1")
    perform, what = ACTS[method]
    await perform(server)
    newest = (await acts(server, what=what))[0]
    assert (newest.actor_kind, newest.actor, newest.reason) == ("local", f"uid:{os.getuid()}", "")
