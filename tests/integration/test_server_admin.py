"""The admin socket: what administrators ask, and who else may not."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import pytest
from cryptography import x509
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from citadel._wire import admin_pb2, types_pb2
from tests.servers import Member, Server, reason_of, refusal, running_server, server_settings

pytestmark = pytest.mark.integration

Code = grpc.StatusCode


async def test_an_entry_is_created_shown_listed_and_deleted(server: Server, agent: Member) -> None:
    admin = server.admin()
    made = await server.entry("/web", agent, admin=True, downstream=True, dns_names=["web.a.test"], hint="main")
    assert (made.admin, made.downstream, made.revision, made.id != "") == (True, True, 1, True)
    assert await admin.GetEntry(admin_pb2.GetEntryRequest(id=made.id)) == made
    assert list((await admin.ListEntries(admin_pb2.ListEntriesRequest())).entries) == [made]
    assert await admin.DeleteEntry(admin_pb2.DeleteEntryRequest(id=made.id)) == made
    assert await refusal(admin.GetEntry(admin_pb2.GetEntryRequest(id=made.id))) == (Code.NOT_FOUND, "entry_not_found")
    assert await refusal(admin.DeleteEntry(admin_pb2.DeleteEntryRequest(id=made.id))) == (
        Code.NOT_FOUND,
        "entry_not_found",
    )


async def test_a_duplicate_names_the_entry_that_is_there(server: Server, agent: Member) -> None:
    made = await server.entry("/web", agent)
    with pytest.raises(aio.AioRpcError) as refused:
        await server.entry("/web", agent, hint="another")
    assert (refused.value.code(), reason_of(refused.value)) == (Code.ALREADY_EXISTS, "entry_duplicate")
    assert made.id in (refused.value.details() or "")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"spiffe_id": "spiffe://a.test//x"}, "id_malformed"),
        ({"spiffe_id": "spiffe://a.test"}, "entry_root_path"),
        ({"spiffe_id": "spiffe://a.test/citadel/agent/x"}, "entry_reserved_id"),
        ({"spiffe_id": "spiffe://b.test/x"}, "entry_foreign_trust_domain"),
        ({"dns_names": ["*.a.test"]}, "entry_bad_dns_name"),
        ({"dns_names": ["Server.CITADEL.internal."]}, "entry_reserved_dns_name"),
        ({"selectors": []}, "entry_no_selectors"),
        ({"x509_svid_ttl": Duration(seconds=10**15)}, "request_malformed"),
        ({"expires_at": Timestamp(seconds=10**15)}, "request_malformed"),
    ],
)
async def test_an_entry_that_breaks_a_rule_is_refused(server: Server, change: dict[str, Any], reason: str) -> None:
    fields: dict[str, Any] = {
        "spiffe_id": "spiffe://a.test/web",
        "parent_id": "spiffe://a.test/citadel/agent/node-1",
        "selectors": ["unix:uid:1"],
    }
    entry = types_pb2.Entry(**(fields | change))
    got = await refusal(server.admin().CreateEntry(admin_pb2.CreateEntryRequest(entry=entry)))
    assert got == (Code.INVALID_ARGUMENT, reason)
    assert (await server.status()).entries == 0


async def test_pages_of_a_list_lose_and_repeat_nothing_while_entries_go(server: Server, agent: Member) -> None:
    made = [await server.entry(f"/w{number}", agent) for number in range(7)]
    elsewhere = await server.entry("/w0", "spiffe://a.test/citadel/agent/node-2")
    admin, seen, token = server.admin(), [], ""
    while True:
        request = admin_pb2.ListEntriesRequest(parent_id=agent.spiffe_id, page_size=3, page_token=token)
        page = await admin.ListEntries(request)
        seen += [entry.id for entry in page.entries]
        token = page.next_page_token
        if not token:
            break
        await admin.DeleteEntry(admin_pb2.DeleteEntryRequest(id=seen[-1]))
    assert seen == [entry.id for entry in made]
    by_id = await admin.ListEntries(admin_pb2.ListEntriesRequest(spiffe_id="spiffe://a.test/w0"))
    assert [entry.id for entry in by_id.entries] == [made[0].id, elsewhere.id]
    bad = admin.ListEntries(admin_pb2.ListEntriesRequest(page_token="made-up"))
    assert await refusal(bad) == (Code.INVALID_ARGUMENT, "request_malformed")


async def test_the_status_says_who_is_there_and_what_signs(server: Server, agent: Member) -> None:
    await server.entry("/web", agent)
    status = await server.status()
    assert (status.trust_domain, status.entries, status.revision, status.bundle_sequence) == ("a.test", 1, 1, 1)
    kinds = [(found.kind, found.state) for found in status.authorities]
    assert kinds == [("root", "active"), ("issuer", "active"), ("jwt", "active")]
    assert {status.authorities[2].kid} == server.bundle.jwt_authorities.keys()
    assert status.authorities[0].serial == _serial(server.bundle.x509_authorities[0])
    (found,) = status.agents
    assert (found.spiffe_id, found.connected, found.banned) == (agent.spiffe_id, False, False)


def _serial(certificate: x509.Certificate) -> str:
    digits = f"{certificate.serial_number:x}"
    return digits.zfill(len(digits) + len(digits) % 2)


async def test_the_admin_socket_has_health_and_reflection_and_is_closed_to_others(server: Server) -> None:
    path = server.settings.listen.admin_socket
    assert path.stat().st_mode & 0o777 == 0o660
    async with aio.insecure_channel(f"unix:{path}") as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        asking = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asking]))
        names = {service.name for service in (await anext(aiter(answers))).list_services_response.service}
        assert "citadel.v1.Admin" in names


ASK_AS_ANOTHER_USER = """
import os, socket, sys, grpc
from citadel._wire import admin_pb2, admin_pb2_grpc
path, uid = sys.argv[1], int(sys.argv[2])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
with socket.socket(socket.AF_UNIX) as plain:
    plain.connect(path)
    print("reached", end=" ")
try:
    stub = admin_pb2_grpc.AdminStub(grpc.insecure_channel("unix:" + path))
    stub.GetStatus(admin_pb2.GetStatusRequest(), timeout=5)
    print("answered")
except grpc.RpcError as error:
    print(error.code().name)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(("uid", "outcome"), [(0, "reached answered"), (65534, "reached UNAVAILABLE")])
async def test_the_admin_socket_answers_root_and_no_other_user(tmp_path: Path, uid: int, outcome: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "admin.sock"
        settings = server_settings(tmp_path)
        listen = settings.listen.model_copy(update={"admin_socket": path})
        async with running_server(settings.model_copy(update={"listen": listen})):
            # Nothing but the kernel's word about the caller stands in the way.
            path.parent.chmod(0o755)
            path.chmod(0o666)
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", ASK_AS_ANOTHER_USER, str(path), str(uid), stdout=subprocess.PIPE
            )
            said, _ = await asyncio.wait_for(child.communicate(), 20)
    assert said.decode().strip() == outcome
