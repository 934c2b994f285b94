"""The Workload API (WAPI-*), its X.509 profile, asked of a real agent of a real server."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key

from ca.entries.rules import MAX_HINT_BYTES
from citadel._wire import workload_pb2 as pb
from citadel.bundle import TrustBundle
from citadel.certificate_chain import read_chain
from citadel.serial import serial_hex
from sds.keep.schedule import renewal_time
from tests.servers import refusal
from tests.workloads import HEADER, SOMEBODY_ELSE, Agent, Workload

PKCS8_ALGORITHM = bytes.fromhex("06072a8648ce3d0201")  # the OID of EC keys, which SEC1's form does not name


def ids(message: pb.X509SVIDResponse) -> list[str]:
    return [svid.spiffe_id for svid in message.svids]


def serials(message: pb.X509SVIDResponse) -> list[int]:
    return [read_chain(svid.x509_svid)[0].serial_number for svid in message.svids]


def ders(certificates: tuple[x509.Certificate, ...]) -> list[bytes]:
    return [each.public_bytes(Encoding.DER) for each in certificates]


def own_roots(bundle: TrustBundle) -> bytes:
    return b"".join(each.public_bytes(Encoding.DER) for each in bundle.x509_authorities)


async def read_until(call: Any, holds: Any) -> Any:
    """Entries that are made one after the other may come in one message or in several."""
    async with asyncio.timeout(10):
        while not holds(message := await call.read()):
            pass
    return message


@pytest.mark.spec("WAPI-16", "WAPI-17", "WAPI-18", "WAPI-19", "WAPI-20")
async def test_a_workload_is_sent_its_certificate_its_key_and_its_domain_s_roots(
    agent: Agent, workload: Workload
) -> None:
    await agent.entry("/web")
    message = await workload.svids().read()
    (svid,) = message.svids
    assert svid.spiffe_id == "spiffe://a.test/web"
    chain = read_chain(svid.x509_svid)
    assert svid.x509_svid == b"".join(ders(chain))
    assert chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.UniformResourceIdentifier
    ) == ["spiffe://a.test/web"]
    assert not set(ders(chain)) & set(ders(agent.server.bundle.x509_authorities))
    chain[0].verify_directly_issued_by(chain[1])
    key = load_der_private_key(svid.x509_svid_key, None)
    assert PKCS8_ALGORITHM in svid.x509_svid_key[:32]
    assert key.public_key() == chain[0].public_key()
    assert svid.bundle == own_roots(agent.server.bundle)
    assert svid.hint == ""
    assert not message.federated_bundles


@pytest.mark.spec("WAPI-08")
async def test_the_first_message_comes_at_once_on_every_stream(agent: Agent, workload: Workload) -> None:
    await agent.entry("/web")
    await workload.svids().read()
    for ask in (workload.svids, workload.bundles, workload.svids):
        began = time.perf_counter()
        await ask().read()
        assert time.perf_counter() - began < 3  # nothing that is waited for comes so soon


async def test_who_asks_right_after_its_entry_was_made_waits_for_its_certificate(
    agent: Agent, workload: Workload
) -> None:
    for number in range(5):
        await agent.entry(f"/w{number}")
        await read_until(workload.svids(), lambda message, n=number: f"spiffe://a.test/w{n}" in ids(message))


@pytest.mark.spec("WAPI-07", "WAPI-09", "WAPI-43")
async def test_every_message_is_a_whole_in_the_same_order_and_comes_only_with_a_change(
    agent: Agent, workload: Workload
) -> None:
    first = await agent.entry("/z-first")
    call = workload.svids()
    assert ids(await call.read()) == ["spiffe://a.test/z-first"]
    second = await agent.entry("/a-second")
    both = await read_until(call, lambda message: len(message.svids) == 2)
    assert ids(both) == ["spiffe://a.test/z-first", "spiffe://a.test/a-second"]
    await agent.entry("/other", SOMEBODY_ELSE)
    await agent.delete(first)
    left = await call.read()
    assert ids(left) == ["spiffe://a.test/a-second"]
    assert left.svids[0] == both.svids[1]
    assert second.id
    assert await call.is_silent()


@pytest.mark.spec("WAPI-09")
async def test_a_renewed_certificate_is_pushed(agent: Agent, workload: Workload) -> None:
    await agent.entry("/web", x509_svid_ttl=timedelta(seconds=4))
    call = workload.svids()
    before = await call.read()
    after = await call.read()
    assert ids(after) == ids(before)
    assert serials(after) != serials(before)
    assert after.svids[0].x509_svid_key != before.svids[0].x509_svid_key


@pytest.mark.spec("WAPI-26", "WAPI-30", "WEP-19")
@pytest.mark.parametrize("method", ["svids", "bundles"])
async def test_a_caller_without_an_entry_is_refused(agent: Agent, workload: Workload, method: str) -> None:
    await agent.entry("/other", SOMEBODY_ELSE)
    code, reason = await refusal(getattr(workload, method)().read())
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "no_identity")


@pytest.mark.spec("WAPI-27")
@pytest.mark.parametrize("method", ["svids", "bundles"])
async def test_the_stream_ends_then_and_there_when_the_last_entry_is_deleted(
    agent: Agent, workload: Workload, method: str
) -> None:
    entry = await agent.entry("/web")
    call = getattr(workload, method)()
    await call.read()
    began = time.perf_counter()
    await agent.delete(entry)
    assert await refusal(call.end()) == (grpc.StatusCode.PERMISSION_DENIED, "no_identity")
    assert time.perf_counter() - began < 2


@pytest.mark.spec("WAPI-29", "WAPI-21")
async def test_bundles_are_named_by_the_id_of_their_domain_and_the_own_one_is_there(
    agent: Agent, workload: Workload
) -> None:
    await agent.entry("/web", federates_with=["b.test"])  # whose bundle nobody has yet
    message = await workload.bundles().read()
    assert dict(message.bundles) == {"spiffe://a.test": own_roots(agent.server.bundle)}


@pytest.mark.spec("WAPI-07")
async def test_the_revocation_lists_of_all_that_vouch_for_a_certificate_come_with_it_and_with_the_bundles(
    agent: Agent, workload: Workload
) -> None:
    await agent.entry("/web")
    message = await workload.svids().read()
    authorities = {*read_chain(message.svids[0].x509_svid)[1:], *agent.server.bundle.x509_authorities}
    for lists in (message.crl, (await workload.bundles().read()).crl):
        by_issuer = {crl.issuer: crl for crl in map(x509.load_der_x509_crl, lists)}
        assert by_issuer.keys() == {each.subject for each in authorities}
        assert all(by_issuer[each.subject].is_signature_valid(each.public_key()) for each in authorities)
        assert not any(map(len, by_issuer.values())), "nothing was revoked"


@pytest.mark.spec("WAPI-23")
async def test_a_hint_stands_once_and_its_first_bearer_keeps_it(agent: Agent, workload: Workload) -> None:
    for path, hint in (("/a", "internal"), ("/b", "internal"), ("/c", "external"), ("/d", ""), ("/e", "")):
        await agent.entry(path, hint=hint)
    message = await read_until(workload.svids(), lambda message: len(message.svids) == 5)
    assert [svid.hint for svid in message.svids] == ["internal", "", "external", "", ""]


@pytest.mark.spec("WAPI-25")
async def test_a_hint_has_at_most_1024_bytes(agent: Agent, workload: Workload) -> None:
    code, reason = await refusal(agent.entry("/long", hint="h" * (MAX_HINT_BYTES + 1)))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "entry_malformed")
    await agent.entry("/web", hint="h" * 1024)
    assert (await workload.svids().read()).svids[0].hint == "h" * 1024


@pytest.mark.spec("WAPI-02", "WAPI-03", "WEP-21")
@pytest.mark.parametrize(
    ("method", "request_type"),
    [("FetchWITSVID", pb.WITSVIDRequest), ("FetchWITBundles", pb.WITBundlesRequest)],
)
async def test_streams_of_profiles_that_are_not_offered_say_so(
    agent: Agent, workload: Workload, method: str, request_type: Any
) -> None:
    await agent.entry("/web")
    code, _ = await refusal(getattr(workload.api, method)(request_type(), metadata=HEADER).read())
    assert code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.spec("WAPI-05", "WEP-22")
def test_the_service_has_the_standard_s_methods_and_fields_and_no_others() -> None:
    service = pb.DESCRIPTOR.services_by_name["SpiffeWorkloadAPI"]
    assert service.full_name == "SpiffeWorkloadAPI"
    assert {(each.name, each.output_type.name, each.server_streaming) for each in service.methods} == {
        ("FetchX509SVID", "X509SVIDResponse", True),
        ("FetchX509Bundles", "X509BundlesResponse", True),
        ("FetchJWTSVID", "JWTSVIDResponse", False),
        ("FetchJWTBundles", "JWTBundlesResponse", True),
        ("ValidateJWTSVID", "ValidateJWTSVIDResponse", False),
        ("FetchWITSVID", "WITSVIDResponse", True),
        ("FetchWITBundles", "WITBundlesResponse", True),
    }
    fields = {
        name: {field.name: field.number for field in message.fields}
        for name, message in pb.DESCRIPTOR.message_types_by_name.items()
    }
    assert fields == {
        "X509SVIDRequest": {},
        "X509SVIDResponse": {"svids": 1, "crl": 2, "federated_bundles": 3},
        "X509SVID": {"spiffe_id": 1, "x509_svid": 2, "x509_svid_key": 3, "bundle": 4, "hint": 5},
        "X509BundlesRequest": {},
        "X509BundlesResponse": {"crl": 1, "bundles": 2},
        "JWTSVIDRequest": {"audience": 1, "spiffe_id": 2},
        "JWTSVIDResponse": {"svids": 1},
        "JWTSVID": {"spiffe_id": 1, "svid": 2, "hint": 3},
        "JWTBundlesRequest": {},
        "JWTBundlesResponse": {"bundles": 1},
        "ValidateJWTSVIDRequest": {"audience": 1, "svid": 2},
        "ValidateJWTSVIDResponse": {"spiffe_id": 1, "claims": 2},
        "WITSVIDRequest": {"spiffe_id": 1},
        "WITSVIDResponse": {"svids": 1},
        "WITSVID": {"spiffe_id": 1, "wit_svid": 2, "wit_svid_key": 3, "hint": 4},
        "WITBundlesRequest": {},
        "WITBundlesResponse": {"bundles": 1},
    }


async def test_the_server_knows_who_was_sent_what(agent: Agent, workload: Workload) -> None:
    await agent.entry("/web")
    call = workload.svids()
    message = await call.read()
    async with asyncio.timeout(10):
        while not (streams := [each for a in (await agent.server.status()).agents for each in a.streams]):
            await asyncio.sleep(0.02)
    (stream,) = streams
    assert stream.protocol == "workload-api"
    assert [each.name for each in stream.resources] == ["spiffe://a.test/web", "spiffe://a.test"]
    assert stream.resources[0].serial == serial_hex(serials(message)[0])
    call.cancel()


@pytest.mark.spec("WAPI-10")
def test_what_was_issued_at_once_is_not_renewed_at_once() -> None:
    received, random = datetime(2026, 1, 1, tzinfo=UTC), Random(1)  # noqa: S311 - a test repeats itself
    ends = received + timedelta(hours=1)
    due = {renewal_time(received=received, not_after=ends, random=random) for _ in range(100)}
    assert max(due) - min(due) > timedelta(minutes=4)
