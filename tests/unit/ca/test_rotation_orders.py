"""What agents are ordered to renew, and the time by which a rotation goes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import pytest

from ca.api.sessions import AgentSession
from ca.rotation.orders import OrderBoard, RenewalTerms
from ca.steady import SteadyTime
from citadel._wire import agent_api_pb2 as pb
from citadel.wire import from_duration, from_timestamp
from tests.clock import FakeClock
from tests.unit.ca.values import NODE_1, NODE_2, NOW, agent

OLD, NEW = b"old", b"new"
MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)


def terms(**changes: Any) -> RenewalTerms:
    profile: dict[str, Any] = {
        "id": "r",
        "issuer_key_ids": frozenset({OLD}),
        "not_before_until": None,
        "spiffe_id": "",
        "agent": "",
        "window": 5 * MINUTE,
        "ends_at": NOW + 5 * MINUTE,
    }
    return RenewalTerms(**(profile | changes))


class Office:
    """A board, and how often it woke the agents."""

    def __init__(self, *given: RenewalTerms) -> None:
        self.woken = 0
        self.board = OrderBoard(wake_agents=self._wake)
        for each in given:
            self.board.give(each)

    def _wake(self) -> None:
        self.woken += 1

    def orders(
        self, own_issuer: bytes = NEW, *, after: timedelta = timedelta(0), of: Any = NODE_1
    ) -> list[pb.RenewOrder]:
        session = AgentSession(agent=agent(of), connected_at=NOW, own_issuer=own_issuer)
        return list(self.board.of(session, NOW + after))


def test_an_agent_renews_its_own_svid_first_and_over_its_new_connection_those_of_its_workloads() -> None:
    office = Office(terms())
    ((own,), (workloads,)) = office.orders(OLD), office.orders(NEW)
    assert (own.id, own.own, own.svids) == ("r-own", True, False)
    assert (workloads.id, workloads.own, workloads.svids) == ("r", False, True)
    assert list(own.issuer_key_ids) == list(workloads.issuer_key_ids) == [OLD]


def test_without_an_order_there_is_none_and_agents_are_woken_for_each_that_comes() -> None:
    office = Office()
    assert (office.orders(), office.woken) == ([], 0)
    office.board.give(terms())
    office.board.give(terms(id="next"))
    assert [order.id for order in office.orders()] == ["next"]
    assert office.woken == 2
    office.board.give(None)
    assert office.orders() == []


def test_an_order_for_one_agent_is_told_to_that_one() -> None:
    office = Office(terms(agent=str(NODE_1)))
    assert len(office.orders(of=NODE_1)) == 1
    assert office.orders(of=NODE_2) == []
    assert office.orders(OLD, of=NODE_2) == []


@pytest.mark.parametrize(
    ("after", "left"),
    [
        (timedelta(0), 5 * MINUTE),
        (2 * MINUTE, 3 * MINUTE),
        (5 * MINUTE, timedelta(0)),
        (HOUR, timedelta(0)),
        (-HOUR, 5 * MINUTE),  # the clock was set back: nobody takes longer for that
    ],
)
def test_whoever_comes_later_has_what_is_left_of_the_window(after: timedelta, left: timedelta) -> None:
    (order,) = Office(terms()).orders(after=after)
    assert from_duration(order.window) == left


def test_in_an_emergency_everything_is_renewed_at_once() -> None:
    (order,) = Office(terms(ends_at=NOW)).orders()
    assert from_duration(order.window) == timedelta(0)


def test_an_order_by_time_says_so() -> None:
    by_time = terms(issuer_key_ids=frozenset(), not_before_until=NOW, spiffe_id="spiffe://a.test/web")
    (order,) = Office(by_time).orders(OLD)
    assert (order.svids, order.own, order.spiffe_id) == (True, False, "spiffe://a.test/web")
    assert from_timestamp(order.not_before_until) == NOW
    (order,) = Office(terms()).orders()
    assert not order.HasField("not_before_until")


@pytest.mark.parametrize(
    ("jump", "now", "latest"),
    [(timedelta(0), MINUTE, MINUTE), (HOUR, MINUTE, HOUR + MINUTE), (-HOUR, -HOUR + MINUTE, MINUTE)],
)
async def test_what_has_ended_is_told_by_the_earlier_clock_and_what_is_due_by_the_later(
    clock: FakeClock, jump: timedelta, now: timedelta, latest: timedelta
) -> None:
    steady, begun = SteadyTime(clock), clock.now()
    await clock.advance(60)
    clock.jump(jump)
    assert (steady.now() - begun, steady.latest() - begun) == (now, latest)
    assert (steady.unmoved() - begun, steady.jump) == (MINUTE, jump)
    clock.jump(-jump)
    assert steady.now() == steady.latest() == steady.unmoved() == clock.now()


async def test_nothing_has_certainly_ended_while_a_clock_may_still_be_set_right(clock: FakeClock) -> None:
    steady, begun = SteadyTime(clock), clock.now()
    await clock.advance(599)
    clock.jump(HOUR)
    assert steady.certain() < begun - 365 * 1000 * timedelta(days=1)
    await clock.advance(1)
    assert steady.certain() == steady.now() == begun + 10 * MINUTE
