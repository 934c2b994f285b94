"""Explanations, the list of proxies, minting, metrics and health, with a real server and a real agent."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from click.testing import CliRunner, Result
from cryptography import x509
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from citadel.config.types import HostPort
from citadel.svid import X509Svid
from cli.citadel_cli import citadel_cli
from tests.agents import RunningAgent, running_agent, sds_stream
from tests.servers import Server, http_status

pytestmark = pytest.mark.integration

ALERTS: Final = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yaml"
WEB: Final = "spiffe://a.test/web"


@pytest.fixture
async def node(server: Server, tmp_path: Path) -> AsyncIterator[RunningAgent]:
    async with running_agent(server, tmp_path / "agent") as running:
        yield running


async def cli(server: Server, *arguments: str) -> Result:
    command = ["--socket", str(server.settings.listen.admin_socket), *arguments]
    return await asyncio.to_thread(CliRunner().invoke, citadel_cli, command, prog_name="citadel-cli")


async def answer(server: Server, *arguments: str) -> Any:
    result = await cli(server, *arguments, "-o", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def explain_pid(server: Server, node: RunningAgent, pid: int) -> Any:
    return await answer(server, "explain", "--pid", str(pid), "--agent-socket", str(node.settings.admin_socket))


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await holds():
            await asyncio.sleep(0.05)


async def metrics(address: HostPort) -> Mapping[str, float]:
    """Each series, with its labels in the order of their names, and its value."""
    status, body = await http_status(address, "/metrics")
    assert status == 200
    return {
        sample.name + "".join(f"|{value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


async def metric_names(address: HostPort) -> set[str]:
    """Each series, and each family that has none yet: a count of what never came to be."""
    _, body = await http_status(address, "/metrics")
    families = list(text_string_to_metric_families(body))
    empty = {family.name + ("_total" if family.type == "counter" else "") for family in families if not family.samples}
    return empty | {sample.name for family in families for sample in family.samples}


async def held(node: RunningAgent) -> None:
    """Wait until the agent has an SVID for its entry."""

    async def is_held() -> bool:
        return (await metrics(node.settings.probes))["citadel_agent_svids_held"] >= 1

    await until(is_held)


def entry_for_me(server: Server, node: RunningAgent) -> Awaitable[Any]:
    return server.entry("/web", str(node.spiffe_id), f"unix:uid:{os.geteuid()}")


async def test_a_process_without_an_entry_learns_which_selector_it_misses(server: Server, node: RunningAgent) -> None:
    wrong = os.geteuid() + 1
    await server.entry("/web", str(node.spiffe_id), f"unix:uid:{wrong}")

    async def is_told() -> bool:
        return bool((await explain_pid(server, node, os.getpid()))["entries"])

    await until(is_told)
    found = await explain_pid(server, node, os.getpid())
    assert f"unix:uid:{os.geteuid()}" in found["selectors"]
    assert any(selector.startswith("unix:sha256:") for selector in found["selectors"])
    assert found["entries"][0]["misses"] == [{"wanted": f"unix:uid:{wrong}", "seen": f"unix:uid:{os.geteuid()}"}]
    assert not found["verdict"]["good"]
    assert f"wants unix:uid:{wrong}" in found["verdict"]["answer"]
    assert found["agent"]["connected"]


async def test_a_process_is_followed_from_no_stream_to_its_certificate(server: Server, node: RunningAgent) -> None:
    await entry_for_me(server, node)
    await held(node)
    found = await explain_pid(server, node, os.getpid())
    assert found["entries"][0]["state"] == "held"
    assert {"default", "ROOTCA", WEB} <= set(found["sds_names"])
    assert "no open stream" in found["verdict"]["answer"]
    async with sds_stream(node, "default") as stream:
        await stream.answer(await stream.next())

        async def is_good() -> bool:
            return bool((await explain_pid(server, node, os.getpid()))["verdict"]["good"])

        await until(is_good)
        table = await cli(
            server, "explain", "--pid", str(os.getpid()), "--agent-socket", str(node.settings.admin_socket)
        )
        assert f"Fine: it has {WEB}." in table.output


async def test_a_pid_that_does_not_exist_is_said_not_to(server: Server, node: RunningAgent) -> None:
    result = await cli(server, "explain", "--pid", "4194303", "--agent-socket", str(node.settings.admin_socket))
    assert result.exit_code == 4
    assert "there is no process 4194303" in result.output


async def test_without_an_agent_the_command_says_what_to_name(server: Server, tmp_path: Path) -> None:
    result = await cli(server, "explain", "--pid", "1", "--agent-socket", str(tmp_path / "none"))
    assert result.exit_code == 7
    assert "--agent-socket" in result.output


async def test_an_identity_is_explained_from_its_entry_to_the_stream_that_has_it(
    server: Server, node: RunningAgent
) -> None:
    nothing = await answer(server, "explain", WEB)
    assert "no entry grants" in nothing["verdict"]["answer"]
    entry = await entry_for_me(server, node)
    assert (await answer(server, "explain", "spiffe://a.test/WEB"))["near_misses"] == [WEB]
    assert (await answer(server, "explain", "spiffe://b.test/web"))["near_misses"] == [WEB]
    await held(node)
    issued = await answer(server, "explain", WEB)
    assert issued["grants"][0]["entry"]["id"] == entry.id
    (agent,) = issued["grants"][0]["agents"]
    assert (agent["spiffe_id"], agent["joined"], agent["connected"]) == (str(node.spiffe_id), True, True)
    assert agent["acknowledged_revision"] >= agent["needed_revision"] == entry.revision
    assert issued["last_issued"]["requested_by"] == str(node.spiffe_id)
    assert "no process asks for it" in issued["verdict"]["answer"]
    async with sds_stream(node, WEB) as stream:
        await stream.answer(await stream.next(), refusal="I do not like it")

        async def is_refused() -> bool:
            return "I do not like it" in (await answer(server, "explain", WEB))["verdict"]["answer"]

        await until(is_refused)
        table = await cli(server, "explain", WEB)
        assert "Most likely: the proxy of stream node-1/" in table.output


async def test_proxies_are_listed_with_what_they_said(server: Server, node: RunningAgent) -> None:
    await entry_for_me(server, node)
    await held(node)
    async with sds_stream(node, WEB) as good, sds_stream(node, "ROOTCA") as bad:
        await good.answer(await good.next())
        await bad.answer(await bad.next(), refusal="no such\x1b[31m root")

        async def both() -> bool:
            states = [
                resource["state"]
                for proxy in await answer(server, "proxy", "list")
                for resource in proxy["stream"]["resources"]
            ]
            return sorted(states) == ["acknowledged", "refused"]

        await until(both)
        (refused,) = await answer(server, "proxy", "list", "--refused")
        (resource,) = refused["stream"]["resources"]
        assert (refused["agent_id"], refused["stream"]["pid"]) == (str(node.spiffe_id), os.getpid())
        assert resource["refusal"].startswith("no such")
        (mine,) = await answer(server, "proxy", "list", "--spiffe-id", WEB, "--agent", "node-1")
        assert mine["stream"]["resources"][0]["serial"]
        assert mine["stream"]["resources"][0]["not_after"]
        assert mine["stream"]["resources"][0]["version"]
        assert await answer(server, "proxy", "list", "--agent", "node-2") == []
        assert (await answer(server, "proxy", "show", mine["name"])) == mine
        table = await cli(server, "proxy", "list")
        assert "no such" in table.output
        assert "\x1b" not in table.output
        assert (await cli(server, "proxy", "show", "node-1/9999")).exit_code == 4


async def test_a_minted_svid_is_written_safely_recorded_and_audited(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    said = await answer(
        server, "svid", "mint", "--spiffe-id", "spiffe://a.test/job", "--ttl", "90s", "--dns", "job.example.org",
        "--write", str(folder), "--reason", "repair run",
    )  # fmt: skip
    svid = X509Svid.from_pem((folder / "svid.pem").read_bytes())
    assert (str(svid.spiffe_id), svid.serial, said["lifetime_limited_by"]) == (
        "spiffe://a.test/job",
        said["serial"],
        "asked",
    )
    names = svid.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["job.example.org"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert svid.serial in server.ledger.serials()
    with closing(sqlite3.connect(server.ledger.path)) as database:
        (by,) = database.execute("SELECT requested_by FROM ledger WHERE serial = ?", (svid.serial,)).fetchone()
        acts = database.execute("SELECT actor, target, why FROM audit WHERE what = 'svid.mint'").fetchall()
    assert by == f"spiffe://a.test/citadel/local/uid-{os.geteuid()}"
    assert acts == [(f"uid:{os.geteuid()}", "spiffe://a.test/job", "repair run")]
    again = await cli(
        server, "svid", "mint", "--spiffe-id", "spiffe://a.test/job", "--write", str(folder), "--reason", "again"
    )
    assert (again.exit_code, len(server.ledger.serials())) == (5, server.ledger.serials().index(svid.serial) + 1)


async def test_a_lifetime_that_is_capped_says_by_what(server: Server, tmp_path: Path) -> None:
    said = await answer(
        server, "svid", "mint", "--spiffe-id", "spiffe://a.test/job", "--ttl", "30d",
        "--write", str(tmp_path / "job"), "--reason", "long run",
    )  # fmt: skip
    assert said["lifetime_limited_by"] == "cap"


@pytest.mark.invariant(13)
@pytest.mark.parametrize(
    ("spiffe_id", "more", "reason"),
    [
        ("spiffe://a.test/citadel/server", [], "entry_reserved_id"),
        ("spiffe://a.test/citadel/agent/node-1", [], "entry_reserved_id"),
        ("spiffe://b.test/job", [], "entry_foreign_trust_domain"),
        ("spiffe://a.test", [], "entry_root_path"),
        ("spiffe://a.test/job", ["--dns", "Server.Citadel.Internal."], "entry_reserved_dns_name"),
        ("spiffe://a.test/job", ["--ttl", "1ms"], "entry_bad_lifetime"),
    ],
)
async def test_what_no_entry_may_grant_is_not_minted_either(
    server: Server, tmp_path: Path, spiffe_id: str, more: list[str], reason: str
) -> None:
    before = server.ledger.serials()
    result = await cli(
        server, "svid", "mint", "--spiffe-id", spiffe_id, "--write", str(tmp_path / "x"), "--reason", "try", *more
    )
    assert (result.exit_code, reason in result.output) == (3, True), result.output
    assert server.ledger.serials() == before
    assert list((tmp_path / "x").iterdir()) == []


async def test_minting_without_a_reason_is_refused(server: Server, tmp_path: Path) -> None:
    result = await cli(server, "svid", "mint", "--spiffe-id", "spiffe://a.test/j", "--write", str(tmp_path / "x"))
    assert result.exit_code == 2
    result = await cli(
        server, "svid", "mint", "--spiffe-id", "spiffe://a.test/j", "--write", str(tmp_path / "x"), "--reason", " "
    )
    assert (result.exit_code, "needs a reason" in result.output) == (3, True)


async def test_both_processes_tell_what_they_measure(server: Server, node: RunningAgent) -> None:
    await entry_for_me(server, node)
    await held(node)
    async with sds_stream(node, WEB) as good, sds_stream(node, "ROOTCA") as bad:
        await good.answer(await good.next())
        await bad.answer(await bad.next(), refusal="no")

        async def is_reported() -> bool:
            return (await metrics(server.settings.listen.probes))["citadel_streams_refusing"] == 1

        await until(is_reported)
        agent = await metrics(node.settings.probes)
    assert agent["citadel_agent_streams|sds"] == 2
    assert agent["citadel_agent_pushes_total|sds"] >= 2
    assert agent["citadel_agent_acknowledgement_seconds_count"] == 1
    assert agent["citadel_agent_refused_by_proxies_total"] == agent["citadel_agent_streams_refusing"] == 1
    assert agent["citadel_agent_svids_held"] == agent["citadel_agent_svids_wanted"] == 1
    assert agent["citadel_agent_svid_renewals_total"] >= 1
    assert agent["citadel_agent_server_connected"] == 1
    assert agent["citadel_agent_signing_queue"] == 0
    assert agent["citadel_agent_first_expiry_timestamp_seconds"] > 1_700_000_000
    assert agent["process_resident_memory_bytes"] > 0

    told = await metrics(server.settings.listen.probes)
    assert told["citadel_server_svids_issued_total|workload"] == 1
    assert told["citadel_server_svids_issued_total|agent"] == 1
    assert told["citadel_entries"] == 1
    assert told["citadel_agents|connected"] == 1
    assert told["citadel_streams|sds"] == 2
    assert told["citadel_bundle_sequence"] >= 1
    assert told["citadel_revocation_lists"] == 2  # of the root and of the issuing authority
    assert told["citadel_ledger_append_seconds_count"] >= 3
    assert told["citadel_ledger_queue_rows"] == 0
    assert told["citadel_grpc_server_handled_total|OK|citadel.v1.Admin/CreateEntry"] == 1
    ends = [value for name, value in told.items() if name.startswith("citadel_authority_not_after_timestamp_seconds|")]
    assert len(ends) == 3  # of the root, of the issuing authority, and of the key for tokens
    assert min(ends) > 1_700_000_000


async def test_no_identity_is_ever_a_label(server: Server, node: RunningAgent) -> None:
    await entry_for_me(server, node)
    await held(node)
    for address in (server.settings.listen.probes, node.settings.probes):
        assert "spiffe://" not in (await http_status(address, "/metrics"))[1]


async def test_refusals_are_counted_by_reason_and_method(server: Server) -> None:
    await cli(server, "entry", "show", "nothing")
    told = await metrics(server.settings.listen.probes)
    assert told["citadel_refused_total|entry_not_found"] == 1
    assert told["citadel_grpc_server_handled_total|NOT_FOUND|citadel.v1.Admin/GetEntry"] == 1


async def test_every_metric_of_the_alert_rules_exists(server: Server, node: RunningAgent) -> None:
    await entry_for_me(server, node)
    await held(node)
    async with sds_stream(node, WEB) as stream:
        await stream.answer(await stream.next())
        await cli(server, "entry", "show", "nothing")
        known = {
            name
            for address in (server.settings.listen.probes, node.settings.probes)
            for name in await metric_names(address)
        }
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    named = {name for rule in rules for name in re.findall(r"\b(?:citadel|process)_\w+", rule["expr"])}
    assert len(rules) >= 6
    assert named - known == set()
    for rule in rules:
        assert {"alert", "expr", "for", "labels", "annotations"} <= rule.keys()


async def health(address: str, service: str = "") -> int:
    async with aio.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return int((await health_pb2_grpc.HealthStub(channel).Check(request)).status)


@pytest.mark.parametrize("service", ["", "citadel.v1.Admin", "citadel.v1.Insight", "citadel.v1.AgentApi"])
async def test_health_serves_when_ready(server: Server, service: str) -> None:
    assert (
        await health(f"unix:{server.settings.listen.admin_socket}", service) == health_pb2.HealthCheckResponse.SERVING
    )


async def test_the_agents_admin_socket_has_health_too(node: RunningAgent) -> None:
    async def serves() -> bool:  # it looks once a second
        status = await health(f"unix:{node.settings.admin_socket}", "citadel.v1.AgentLocal")
        return status == health_pb2.HealthCheckResponse.SERVING

    await until(serves)
    assert stat.S_IMODE(node.settings.admin_socket.stat().st_mode) == 0o660


async def test_ready_says_in_words_how_each_part_is(server: Server, node: RunningAgent) -> None:
    body = json.loads((await http_status(server.settings.listen.probes, "/ready"))[1])
    assert body["status"] == "ready"
    assert body["checks"]["agents"] == "1 of 1 connected"
    assert {"issuing authority", "root"} <= body["checks"].keys()
    assert json.loads((await http_status(node.settings.probes, "/ready"))[1])["checks"]["server"] == "connected"


async def test_a_server_without_any_of_its_agents_is_degraded_not_dead(server: Server) -> None:
    await server.join("node-1")
    status, body = await http_status(server.settings.listen.probes, "/ready")
    assert (status, json.loads(body)["status"]) == (200, "degraded")


async def test_an_admin_socket_that_cannot_be_opened_keeps_no_node_from_its_certificates(
    server: Server, tmp_path: Path
) -> None:
    async with running_agent(server, tmp_path / "first") as first:
        taken = first.settings.admin_socket
        async with running_agent(server, tmp_path / "second", name="node-2", admin_socket=taken) as second:
            assert (await http_status(second.settings.probes, "/ready"))[0] == 200
        assert taken.exists(), "it is the first one's"
        assert (await explain_pid(server, first, os.getpid()))["agent"]["spiffe_id"] == str(first.spiffe_id)


_STRANGER: Final = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as stranger:
    stranger.connect(sys.argv[1])
    try:
        stranger.sendall(b"PRI * HTTP/2.0")
        is_cut = stranger.recv(1) == b""
    except OSError:
        is_cut = True
sys.exit(0 if is_cut else 1)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
async def test_only_root_and_the_agents_own_user_may_ask(server: Server, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        async with running_agent(server, tmp_path / "agent", admin_socket=folder / "admin.sock") as node:
            node.settings.admin_socket.chmod(0o666)  # the kernel's word decides, not the mode
            for user, code in ((61190, 0), (0, 1)):
                child = await asyncio.create_subprocess_exec(
                    sys.executable, "-I", "-c", _STRANGER, str(node.settings.admin_socket), str(user)
                )
                assert await asyncio.wait_for(child.wait(), 10) == code
