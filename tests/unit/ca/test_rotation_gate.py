"""Who a rotation waits for: what an agent says of itself and of its proxies, and what that means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import pytest

from ca.rotation.gate import (
    PROXIES_ARE_BACK,
    AgentView,
    Closed,
    Trust,
    away,
    coming_back,
    depending,
    has_acknowledged,
    left_with,
    not_renewed,
    still_held,
    without,
)
from ca.rotation.model import Holder
from citadel._wire import agent_api_pb2 as pb
from citadel._wire import types_pb2
from citadel.wire import to_timestamp
from tests.unit.ca.values import NOW

MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)
LATEST: Final = NOW + 24 * HOUR
OLD, NEW = b"old", b"new"
TRUST: Final = Trust(trust_domain="a.test", sequence=5, lists="lists-5")
WAITING, SENT, ACKNOWLEDGED, REFUSED = (
    types_pb2.ResourceReport.WAITING,
    types_pb2.ResourceReport.SENT,
    types_pb2.ResourceReport.ACKNOWLEDGED,
    types_pb2.ResourceReport.REFUSED,
)


def bundle(held: int, lists: str = "", state: Any = ACKNOWLEDGED, **more: Any) -> types_pb2.ResourceReport:
    """ROOTCA: the newest was sent, and `held` is what the proxy has."""
    profile: dict[str, Any] = {"name": "ROOTCA", "trust_domain": "a.test", "bundle_sequence": 5}
    return types_pb2.ResourceReport(
        **(profile | more), state=state, held_version="v", held_bundle_sequence=held, held_revocation_version=lists
    )


def certificate(issuer: bytes, state: Any = ACKNOWLEDGED, **more: Any) -> types_pb2.ResourceReport:
    """`default`: one under `issuer` is what the proxy has."""
    profile: dict[str, Any] = {
        "name": "default",
        "spiffe_id": "spiffe://a.test/web",
        "held_version": "v",
        "held_serial": "0a",
        "held_issuer_key_id": issuer,
        "held_not_after": to_timestamp(NOW + MINUTE),
    }
    return types_pb2.ResourceReport(**(profile | more), state=state)


def stream(*resources: types_pb2.ResourceReport, number: str = "7", **more: Any) -> types_pb2.StreamReport:
    return types_pb2.StreamReport(stream_id=number, pid=42, resources=resources, **more)


def agent(*streams: types_pb2.StreamReport, **changes: Any) -> AgentView:
    """One that has acknowledged everything, and has renewed everything."""
    profile: dict[str, Any] = {
        "name": "node-1",
        "acknowledged_bundle": 5,
        "acknowledged_lists": "lists-5",
        "has_reported": True,
        "is_over": False,
        "own_issuer": NEW,
        "own_ends": NOW + HOUR,
        "streams": streams,
        "progress": pb.OrderProgress(order_id="order", covered=3),
    }
    return AgentView(**(profile | changes))


def words(holders: Iterable[Holder]) -> list[str]:
    return [f"{holder.name}: {holder.words}" for holder in holders]


THE_AGENT: Final = "node-1: the agent has not acknowledged the bundle"


@pytest.mark.invariant(3)
@pytest.mark.parametrize(
    ("view", "named"),
    [
        (agent(), []),
        (agent(acknowledged_bundle=6), []),
        (agent(acknowledged_bundle=4), [THE_AGENT]),
        (agent(acknowledged_bundle=0), [THE_AGENT]),
        (agent(has_reported=False), [THE_AGENT]),
        (agent(acknowledged_lists=""), []),
        (agent(acknowledged_lists="lists-4"), ["node-1: the agent has not taken the revocation lists"]),
        (agent(is_over=True), ["node-1: the agent has more streams than are remembered"]),
        (agent(stream()), []),
        (agent(stream(bundle(5, "lists-5"))), []),
        (agent(stream(bundle(6))), []),
        # Whoever checks no lists refuses nobody for the lack of one; whoever has older ones would.
        (agent(stream(bundle(5, ""))), []),
        (agent(stream(bundle(5, "lists-4"))), ["node-1/7: pid 42 holds an older ROOTCA"]),
        (agent(stream(bundle(4))), ["node-1/7: pid 42 holds an older ROOTCA"]),
        # What was sent says nothing: what a proxy took does.
        (agent(stream(bundle(4, state=SENT))), ["node-1/7: pid 42 has not answered ROOTCA"]),
        (
            agent(stream(bundle(4, state=REFUSED, refusal="Failed to load trusted CA certificates from <inline>"))),
            ["node-1/7: pid 42 refused ROOTCA: Failed to load trusted CA certificates from <inline>"],
        ),
        (agent(stream(bundle(5, state=REFUSED, refusal="of something newer"))), []),
        (
            agent(stream(bundle(4), node_id="sidecar-1", number="8")),
            ["node-1/8: pid 42 (sidecar-1) holds an older ROOTCA"],
        ),
        # A stream is named once, others of the agent too.
        (agent(stream(bundle(4), bundle(4, name="ALL"))), ["node-1/7: pid 42 holds an older ROOTCA"]),
        (
            agent(stream(bundle(4)), stream(bundle(4), number="9")),
            ["node-1/7: pid 42 holds an older ROOTCA", "node-1/9: pid 42 holds an older ROOTCA"],
        ),
        # Bundles of other domains and certificates are none of this.
        (agent(stream(bundle(1, trust_domain="b.test"), certificate(OLD))), []),
    ],
)
def test_who_does_not_know_what_is_to_be_trusted(view: AgentView, named: list[str]) -> None:
    assert words(without(view, TRUST)) == named


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ((), None),
        ((certificate(OLD),), None),
        ((bundle(5, trust_domain="b.test"),), None),
        ((bundle(5),), True),
        ((bundle(5), bundle(4, name="ALL")), False),
    ],
)
def test_whether_a_proxy_has_acknowledged(
    resources: tuple[types_pb2.ResourceReport, ...], *, expected: bool | None
) -> None:
    assert has_acknowledged(stream(*resources), TRUST) is expected


def progress(left: int, **more: Any) -> pb.OrderProgress:
    return pb.OrderProgress(order_id="order", covered=3, left=left, **more)


FOR_EVER: Final = to_timestamp(NOW + 1000 * 365 * 24 * HOUR)
NO_TIME: Final = to_timestamp(NOW)
NO_TIME.seconds = 2**62


@pytest.mark.invariant(4)
@pytest.mark.parametrize(
    ("view", "said", "until"),
    [
        (agent(own_issuer=OLD), "the agent's own SVID is not renewed", NOW + HOUR),
        (agent(own_issuer=OLD, own_ends=None), "the agent's own SVID is not renewed", LATEST),
        (agent(own_issuer=OLD, own_ends=LATEST + HOUR), "the agent's own SVID is not renewed", LATEST),
        # Connected, but hanging, or too old to know of orders: by then whatever it holds has ended.
        (agent(progress=None), "the agent has not said how far it is", LATEST),
        (agent(progress=pb.OrderProgress(order_id="another")), "the agent has not said how far it is", LATEST),
        (agent(progress=progress(2, left_until=to_timestamp(NOW + MINUTE))), "2 SVIDs not renewed", NOW + MINUTE),
        (agent(progress=progress(2)), "2 SVIDs not renewed", LATEST),
        (agent(progress=progress(2, left_until=FOR_EVER)), "2 SVIDs not renewed", LATEST),
        (agent(progress=progress(2, left_until=NO_TIME)), "2 SVIDs not renewed", LATEST),
    ],
)
def test_who_has_not_renewed_is_waited_for_until_what_it_holds_has_ended(
    view: AgentView, said: str, until: object
) -> None:
    assert list(not_renewed(view, "order", {OLD}, latest=LATEST)) == [Holder(name="node-1", words=said, until=until)]  # type: ignore[arg-type] # a table


def test_whoever_has_nothing_left_to_renew_is_not_waited_for() -> None:
    for view in (agent(), agent(progress=progress(0, left_until=FOR_EVER)), agent(own_issuer=b"unknown")):
        assert list(not_renewed(view, "order", {OLD}, latest=LATEST)) == []


SENT_OLD: Final = {"issuer_key_id": OLD, "serial": "0c", "not_after": to_timestamp(NOW + HOUR)}
UNKNOWN: Final = {"held_serial": "", "held_issuer_key_id": b"", "held_not_after": None}


@pytest.mark.invariant(4)
@pytest.mark.parametrize(
    ("resource", "said", "until"),
    [
        (certificate(OLD), "holds 0a: pid 42 holds an older default", NOW + MINUTE),
        (certificate(OLD, held_not_after=None), "holds 0a: pid 42 holds an older default", LATEST),
        (certificate(OLD, held_not_after=FOR_EVER), "holds 0a: pid 42 holds an older default", LATEST),
        (certificate(OLD, held_not_after=NO_TIME), "holds 0a: pid 42 holds an older default", LATEST),
        # A proxy that refuses what is new, or keeps silent, holds what it had.
        (certificate(OLD, SENT, issuer_key_id=NEW), "holds 0a: pid 42 has not answered default", NOW + MINUTE),
        (certificate(OLD, REFUSED, refusal="no"), "holds 0a: pid 42 refused default: no", NOW + MINUTE),
        # What it brought from an earlier stream nobody here knows: also where there is nothing to send it yet.
        (certificate(b"", SENT, **UNKNOWN), "holds something unknown: pid 42 has not answered default", LATEST),
        (
            certificate(b"", REFUSED, refusal="no", **UNKNOWN),
            "holds something unknown: pid 42 refused default: no",
            LATEST,
        ),
        (
            types_pb2.ResourceReport(name="default", state=WAITING, held_version="v"),
            "holds something unknown: pid 42 waits for default",
            LATEST,
        ),
    ],
)
def test_a_proxy_that_depends_on_what_goes_is_waited_for_until_that_has_ended(
    resource: types_pb2.ResourceReport, said: str, until: object
) -> None:
    (holder,) = depending(agent(stream(resource)), {OLD}, never_revoked, latest=LATEST)
    assert (holder.name, holder.words, holder.until, holder.agent) == ("node-1/7", said, until, "node-1")


@pytest.mark.parametrize(
    "resource",
    [
        certificate(NEW),
        certificate(b"somebody else's"),
        # Sent and never acknowledged is not held; and nobody waits for what was never sent.
        types_pb2.ResourceReport(name="default", spiffe_id="spiffe://a.test/web", state=SENT, issuer_key_id=OLD),
        types_pb2.ResourceReport(name="default", state=WAITING),
        bundle(5),
        bundle(0),
    ],
)
def test_a_proxy_that_holds_nothing_that_goes_is_not_waited_for(resource: types_pb2.ResourceReport) -> None:
    assert list(depending(agent(stream(resource)), {OLD}, never_revoked, latest=LATEST)) == []


def test_a_stream_of_the_workload_api_holds_what_was_written_to_it() -> None:
    written = certificate(OLD, ACKNOWLEDGED, name="spiffe://a.test/web", held_version="")
    under_way = certificate(OLD, SENT, name="spiffe://a.test/web", held_version="", issuer_key_id=NEW)
    for each in (written, under_way):
        view = agent(stream(each, protocol="workload-api"))
        assert [holder.name for holder in depending(view, {OLD}, never_revoked, latest=LATEST)] == ["node-1/7"]


def test_what_is_revoked_holds_nobody_up() -> None:
    def is_revoked(issuer: bytes, serial: str) -> bool:
        return (issuer, serial) == (OLD, "0a")

    other = certificate(OLD, held_serial="0b", name="other")
    assert list(depending(agent(stream(certificate(OLD))), {OLD}, is_revoked, latest=LATEST)) == []
    (holder,) = depending(agent(stream(certificate(OLD), other)), {OLD}, is_revoked, latest=LATEST)
    assert holder.words.startswith("holds 0b")


def test_streams_beyond_what_is_remembered_may_depend_on_anything() -> None:
    (holder,) = depending(agent(is_over=True), {OLD}, never_revoked, latest=LATEST)
    assert holder == Holder(name="node-1", words="the agent has more streams than are remembered", until=LATEST)


def never_revoked(_issuer: bytes, _serial: str) -> bool:
    return False


def test_whoever_is_away_counts_until_the_last_of_its_certificates_has_ended() -> None:
    ends = {"node-2": NOW + HOUR, "node-1": NOW + MINUTE, "node-3": NOW}
    assert list(away(ends, now=NOW)) == [
        Holder(name="node-1", words="away, and certificates issued through it are valid", until=NOW + MINUTE),
        Holder(name="node-2", words="away, and certificates issued through it are valid", until=NOW + HOUR),
    ]


SECOND: Final = timedelta(seconds=1)


def after_closing(*resources: types_pb2.ResourceReport, ago: timedelta = SECOND, **more: Any) -> AgentView:
    """An agent of whose proxies one closed its stream and lives."""
    return agent(closed=[Closed(stream(*resources, closed=True, **more), ago)])


@pytest.mark.invariant(3)
@pytest.mark.parametrize(
    ("resources", "is_waited_for"),
    [
        ([bundle(4)], True),
        ([bundle(5, "lists-4")], True),
        ([bundle(5), bundle(4, name="ALL")], True),
        ([bundle(4, state=SENT)], True),
        ([bundle(5, "lists-5")], False),
        ([bundle(6)], False),
        ([certificate(OLD)], False),
        ([bundle(1, trust_domain="b.test")], False),
    ],
)
def test_who_closed_its_stream_without_knowing_is_waited_for_as_long_as_an_envoy_stays_away(
    resources: list[types_pb2.ResourceReport], *, is_waited_for: bool
) -> None:
    view = after_closing(*resources, ago=5 * SECOND, node_id="sidecar-1")
    assert list(without(view, TRUST)) == []
    said = "pid 42 (sidecar-1) closed its stream a moment ago, and may come back with an older bundle"
    holder = Holder(name="node-1/7", words=said, until=NOW + 30 * SECOND, agent="node-1")
    assert list(coming_back(view, TRUST, now=NOW)) == ([holder] if is_waited_for else [])


def test_who_has_been_gone_for_longer_is_not_waited_for_before_a_root_signs() -> None:
    holders = list(coming_back(after_closing(bundle(4), ago=PROXIES_ARE_BACK), TRUST, now=NOW))
    assert still_held(holders, set(), NOW) == []


@pytest.mark.invariant(4)
@pytest.mark.parametrize(
    ("resources", "held", "until"),
    [
        ([certificate(OLD)], "0a", NOW + MINUTE),
        ([certificate(OLD), bundle(4)], "0a", NOW + MINUTE),
        ([certificate(OLD, held_not_after=FOR_EVER)], "0a", LATEST),
        (
            [certificate(OLD, held_not_after=to_timestamp(NOW + HOUR), held_serial="0b"), certificate(OLD)],
            "0b",
            NOW + HOUR,
        ),
        ([certificate(b"", **UNKNOWN)], "something unknown", LATEST),
        # Whoever fetches once may have read what was written, and may not.
        ([certificate(b"", SENT, **(UNKNOWN | SENT_OLD | {"held_version": ""}))], "0c", NOW + HOUR),
        ([certificate(NEW, SENT, **SENT_OLD)], "0c", NOW + HOUR),
        ([certificate(OLD, SENT, issuer_key_id=NEW, serial="0d")], "0a", NOW + MINUTE),
    ],
)
def test_who_closed_its_stream_and_may_hold_what_goes_is_waited_for_until_that_has_ended(
    resources: list[types_pb2.ResourceReport], held: str, until: object
) -> None:
    view = after_closing(*resources, ago=HOUR)
    (holder,) = left_with(view, {OLD}, never_revoked, latest=LATEST)
    assert holder == Holder(
        name="node-1/7",
        words=f"pid 42 closed its stream and may hold {held}",
        until=until,
        agent="node-1",  # type: ignore[arg-type] # a table
    )
    assert list(depending(view, {OLD}, never_revoked, latest=LATEST)) == [holder]


@pytest.mark.parametrize(
    "resource",
    [
        certificate(NEW),
        certificate(NEW, SENT, issuer_key_id=NEW, serial="0c"),
        certificate(NEW, REFUSED, issuer_key_id=OLD, serial="0c"),
        certificate(OLD, held_serial="0e"),  # which is revoked
        bundle(4),
    ],
)
def test_who_closed_its_stream_and_holds_nothing_that_goes_is_not_waited_for(
    resource: types_pb2.ResourceReport,
) -> None:
    def is_revoked(_issuer: bytes, serial: str) -> bool:
        return serial == "0e"

    assert list(left_with(after_closing(resource), {OLD}, is_revoked, latest=LATEST)) == []


POP: Final = f"x509pop/{'f' * 64}"


@pytest.mark.parametrize(
    ("holder", "skipped", "is_held"),
    [
        (Holder(name="node-1", words=""), set(), True),
        (Holder(name="node-1", words="", until=NOW + MINUTE), set(), True),
        (Holder(name="node-1", words="", until=NOW), set(), False),
        (Holder(name="node-1", words=""), {"node-1"}, False),
        (Holder(name="node-1", words=""), {"node", "node-11", "node-1/7"}, True),
        (Holder(name="node-1/7", words="", agent="node-1"), {"node-1/7"}, False),
        (Holder(name="node-1/7", words="", agent="node-1"), {"node-1"}, False),
        (Holder(name="node-1/7", words="", agent="node-1"), {"node-1/8", "node-2"}, True),
        # The names of agents can have two segments, and the first of them names nobody.
        (Holder(name=POP, words=""), {POP}, False),
        (Holder(name=f"{POP}/7", words="", agent=POP), {POP}, False),
        (Holder(name=POP, words=""), {"x509pop"}, True),
        (Holder(name=f"{POP}/7", words="", agent=POP), {"x509pop"}, True),
    ],
)
def test_whom_a_person_skips_and_what_has_ended_is_waited_for_no_longer(
    holder: Holder, skipped: set[str], *, is_held: bool
) -> None:
    assert still_held([holder], skipped, NOW) == ([holder] if is_held else [])


@pytest.mark.invariant(3, 4)
def test_one_proxy_that_refuses_or_keeps_silent_can_delay_and_never_block_for_ever() -> None:
    """Only an observation has no end of its own here: the end of what signs bounds that (`Facts.is_pressing`)."""
    silent = [
        agent(own_issuer=OLD, own_ends=None),
        agent(progress=None, is_over=True),
        agent(progress=progress(1, left_until=FOR_EVER)),
        agent(stream(certificate(b"", REFUSED, **UNKNOWN), certificate(OLD, SENT, held_not_after=FOR_EVER))),
    ]
    for view in silent:
        found = [
            *not_renewed(view, "order", {OLD}, latest=LATEST),
            *depending(view, {OLD}, never_revoked, latest=LATEST),
        ]
        assert still_held(found, set(), LATEST - MINUTE)
        assert still_held(found, set(), LATEST) == []


def test_what_is_to_be_known_is_compared_with_what_is_held_and_never_with_what_was_sent() -> None:
    newest_sent = bundle(4, "lists-4", state=SENT, bundle_sequence=5, revocation_version="lists-5")
    assert not TRUST.is_known_by(newest_sent)
    assert not replace(TRUST, sequence=4).is_known_by(newest_sent)
    assert replace(TRUST, sequence=4, lists="lists-4").is_known_by(newest_sent)


JWT: Final = Trust(trust_domain="a.test", sequence=9, lists="lists-5", is_jwt=True)


def jwt_bundle(held: int, **more: Any) -> types_pb2.ResourceReport:
    """The keys for tokens: `held` is what the program has."""
    profile: dict[str, Any] = {"name": "spiffe://a.test", "trust_domain": "a.test", "jwt_bundle": True}
    return types_pb2.ResourceReport(**(profile | more), state=ACKNOWLEDGED, held_bundle_sequence=held)


@pytest.mark.invariant(3)
@pytest.mark.spec("JWT-30")
@pytest.mark.parametrize(
    ("view", "named"),
    [
        (agent(acknowledged_bundle=9), []),
        (agent(acknowledged_bundle=8), [THE_AGENT]),
        (agent(acknowledged_bundle=9, has_reported=False), [THE_AGENT]),
        (agent(stream(jwt_bundle(9)), acknowledged_bundle=9), []),
        (agent(stream(jwt_bundle(10)), acknowledged_bundle=9), []),
        (agent(stream(jwt_bundle(8)), acknowledged_bundle=9), ["node-1/7: pid 42 holds an older spiffe://a.test"]),
        (agent(stream(jwt_bundle(0, trust_domain="b.test")), acknowledged_bundle=9), []),
        # Envoys are sent no keys for tokens, and tokens are on no list.
        (agent(stream(bundle(5, "lists-4")), acknowledged_bundle=9), []),
        (agent(acknowledged_bundle=9, acknowledged_lists="lists-4"), []),
    ],
)
def test_a_new_key_for_tokens_waits_for_agents_and_for_streams_of_such_keys(view: AgentView, named: list[str]) -> None:
    assert words(without(view, JWT)) == named


@pytest.mark.invariant(3)
def test_a_stream_of_keys_for_tokens_holds_no_root_up() -> None:
    view = agent(stream(jwt_bundle(0)), closed=[Closed(stream(jwt_bundle(0)), timedelta(0))])
    assert words(without(view, TRUST)) == []
    assert words(coming_back(view, TRUST, now=NOW)) == []
    assert has_acknowledged(view.streams[0], TRUST) is None
    assert has_acknowledged(view.streams[0], JWT) is False
    assert words(depending(view, {OLD}, lambda *_: False, latest=LATEST)) == []


@pytest.mark.parametrize("issuer", [b"", OLD], ids=["unknown", "of the old issuer"])
def test_what_a_gateway_has_from_elsewhere_holds_nobody_up(issuer: bytes) -> None:
    theirs = certificate(issuer, name="kubernetes://web", spiffe_id="")
    assert list(depending(agent(stream(theirs)), [OLD], lambda _, __: False, latest=LATEST)) == []
    gone = Closed(stream(theirs), timedelta(0))
    assert list(left_with(agent(closed=[gone]), [OLD], lambda _, __: False, latest=LATEST)) == []
