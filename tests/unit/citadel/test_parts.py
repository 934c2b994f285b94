"""What a message may hold, by the number of its parts: counted on its bytes, before anything is built of it."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError, Message

from ca.api.listeners import MOST_PARTS
from citadel._wire import agent_api_pb2 as agents
from citadel._wire import clusters_pb2 as clusters
from citadel._wire import types_pb2
from citadel.errors import InvalidArgument, Reason
from citadel.parts import bounded, check_parts

MANY = MOST_PARTS + 1


def streams(reports: int, resources: int) -> agents.AgentMessage:
    report = types_pb2.StreamReport(
        stream_id="7",
        pid=1,
        resources=[types_pb2.ResourceReport(name="default", serial="ab" * 100, bundle_sequence=1 << 60)] * resources,
    )
    return agents.AgentMessage(streams=agents.Streams(reports=[report] * reports))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("/citadel.v1.AgentApi/Sync", streams(MANY, 0)),
        ("/citadel.v1.AgentApi/Sync", streams(1, MANY)),
        ("/citadel.v1.AgentApi/Sync", streams(200, 200)),
        (
            "/citadel.v1.AgentApi/Sync",
            agents.AgentMessage(progress=agents.RenewProgress(orders=[agents.OrderProgress()] * MANY)),
        ),
        (
            "/citadel.v1.AgentApi/SignX509Svids",
            agents.SignX509SvidsRequest(requests=[agents.X509SvidRequest()] * MANY),
        ),
        (
            "/citadel.v1.AgentApi/SignJwtSvids",
            agents.SignJwtSvidsRequest(requests=[agents.JwtSvidRequest(audience=[""] * MANY)]),
        ),
        (
            "/citadel.v1.AgentApi/WatchCredentials",
            agents.WantedCredentials(wanted=[agents.WantedCredential()] * MANY),
        ),
        ("/citadel.v1.Clusters/Follow", clusters.ClusterReport(issuers=[clusters.IssuerReport()] * MANY)),
        ("/citadel.v1.Clusters/Follow", clusters.ClusterReport(withdrawn_jwt_keys=[""] * MANY)),
    ],
)
def test_a_message_of_more_parts_than_anybody_sends_is_refused_unread(method: str, message: Message) -> None:
    read: list[bytes] = []
    reader = bounded(method, read.append, most=MOST_PARTS)
    assert reader is not None
    with pytest.raises(InvalidArgument) as refused:
        reader(message.SerializeToString())
    assert refused.value.reason is Reason.REQUEST_MALFORMED
    assert read == []


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("/citadel.v1.AgentApi/Sync", streams(500, 20)),
        (
            "/citadel.v1.AgentApi/SignX509Svids",
            agents.SignX509SvidsRequest(requests=[agents.X509SvidRequest(entry_id="e", csr=b"c" * 800)] * 10_000),
        ),
        (
            "/citadel.v1.Clusters/Follow",
            clusters.ClusterReport(issuers=[clusters.IssuerReport(certificate=b"c" * 700, crl=b"r" * 400)] * 5000),
        ),
        ("/test.Test/Unknown", streams(MANY, 0)),
    ],
)
def test_what_is_really_sent_is_read_as_it_is(method: str, message: Message) -> None:
    reader = bounded(method, type(message).FromString, most=MOST_PARTS)
    assert reader is not None
    assert reader(message.SerializeToString()) == message


def test_fields_are_counted_with_those_of_messages_that_hold_lists() -> None:
    # streams, reports, and of each report its id, its process and its two resources
    message, most = streams(3, 2).SerializeToString(), 1 + 3 + 3 * 4
    kind = agents.AgentMessage.DESCRIPTOR
    check_parts(message, kind, most=most)
    with pytest.raises(InvalidArgument):
        check_parts(message, kind, most=most - 1)
    snapshots = b"\x1a\x28" + b"\x08\x01" * 20  # one field again and again
    with pytest.raises(InvalidArgument):
        check_parts(snapshots, kind, most=20)


@pytest.mark.parametrize(
    "message",
    [
        b"\x1a",  # a length is missing
        b"\x1a\x05\x12\x00",  # longer than the message
        b"\x1a\x02\x12\x01",  # longer than what it stands in
        b"\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",  # a number without an end
        b"\x08\x80",  # a number that breaks off
        b"\x0b\x0c",  # a group
        b"\x0f",  # no kind of part at all
        b"\x09\x00\x00",  # eight bytes, of which two are there
        b"\x0d\x00",  # four bytes, of which one is there
    ],
)
def test_bytes_that_are_no_message_are_no_message(message: bytes) -> None:
    with pytest.raises(DecodeError):
        check_parts(message, agents.AgentMessage.DESCRIPTOR, most=MOST_PARTS)


def test_parts_of_a_kind_that_is_not_known_yet_are_passed_over() -> None:
    newer = b"\xa9\x1f" + bytes(8) + b"\xad\x1f" + bytes(4) + b"\xa0\x1f\x96\x01" + b"\xa2\x1f\x01x"
    check_parts(newer, agents.AgentMessage.DESCRIPTOR, most=4)
