"""How long a token lasts, how soon what failed is tried again, and what probes and `status` say of Vault."""

from __future__ import annotations

from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry

from ca.vault.condition import VaultCondition
from ca.vault.grant import Grant
from ca.vault.metrics import VaultCollector
from citadel.errors import Reason, Unavailable
from citadel.pace import Pace
from citadel.probes import Check, Health
from tests.clock import FakeClock
from tests.unit.ca.values import NOW

DENIED = Unavailable(Reason.VAULT_DENIED, "Vault's policy does not allow `read` on `x`")
GOOD = VaultCondition(address="https://v:8200", login="approle", keys="made", token_until=NOW + timedelta(hours=1))
BAD = VaultCondition(address="https://v:8200", login="token", worry=DENIED, since=NOW)


def grant(ttl: float, *, draw: float = 0.0, renewable: bool = True) -> Grant:
    return Grant.of("hvs.secret", {"ttl": ttl, "renewable": renewable}, now=100.0, draw=draw)


def test_it_is_due_at_two_thirds_of_the_lease_less_a_jitter() -> None:
    assert (grant(300).due, grant(300).ends) == (300, 400)
    assert grant(300, draw=0.5).due == pytest.approx(285)
    assert not grant(300).is_due(299.9)
    assert grant(300).is_due(300)
    assert not grant(300).has_ended(399.9)
    assert grant(300).has_ended(400)


def test_one_without_an_end_is_never_due() -> None:
    for root in (grant(0), grant(0).seen({"ttl": 0}, now=1e9)):
        assert not root.is_due(1e9)
        assert not root.has_ended(1e9)


def test_a_renewal_shrinks_where_it_gives_less_than_the_lease_before() -> None:
    assert not grant(300).has_shrunk(300)
    assert not grant(300).has_shrunk(299)
    assert grant(300).has_shrunk(260)
    # Many small steps are seen as well.
    assert grant(300).renewed(280, now=100, draw=0).renewed(275, now=100, draw=0).has_shrunk(265)


def test_an_end_that_was_brought_forward_is_seen_by_looking() -> None:
    seen = grant(300).seen({"ttl": 30}, now=110)
    assert (seen.ends, seen.due) == (140, pytest.approx(130))
    assert grant(300).seen({"ttl": 290}, now=110).due == 300


def test_a_token_is_in_no_text() -> None:
    assert "hvs.secret" not in repr(grant(300))


def test_the_pause_doubles_up_to_its_longest_and_begins_anew_when_it_worked() -> None:
    clock = FakeClock()
    pace = Pace(clock=clock, draw=lambda: 0.0)
    pauses = []
    for _ in range(9):
        pace.failed(longest=60)
        pauses.append(pace.wait)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    pace.failed(longest=10)
    assert pace.wait == 10
    pace.worked()
    assert pace.wait == 0
    pace.failed(longest=60)
    assert pace.wait == 1
    assert Pace(clock=clock, draw=lambda: 1.0).wait == 0


def test_jitter_only_shortens() -> None:
    pace = Pace(clock=FakeClock(), draw=lambda: 0.999)
    pace.failed(longest=60)
    assert 0.75 <= pace.wait < 1


def test_what_is_said_where_all_is_well() -> None:
    assert GOOD.check() == Check("vault", Health.GOOD, "approle")
    status = GOOD.status()
    assert (status.address, status.login, status.keys, status.good) == ("https://v:8200", "approle", "made", True)
    assert status.token_until.ToDatetime() == (NOW + timedelta(hours=1)).replace(tzinfo=None)
    assert not status.HasField("since")


def test_what_is_wrong_has_its_reason_and_is_no_reason_to_be_taken_for_dead() -> None:
    assert BAD.check() == Check("vault", Health.DEGRADED, f"{DENIED.message} (vault_denied)")
    status = BAD.status()
    assert (status.good, status.reason, status.message) == (False, "vault_denied", DENIED.message)
    assert status.since.ToDatetime() == NOW.replace(tzinfo=None)


@pytest.mark.parametrize(("condition", "value"), [(GOOD, 1.0), (BAD, 0.0), (None, None)])
def test_what_is_measured(condition: VaultCondition | None, value: float | None) -> None:
    registry = CollectorRegistry()
    registry.register(VaultCollector(lambda: condition, {("login", "ok"): 2}))
    assert registry.get_sample_value("citadel_vault_good") == value
    assert registry.get_sample_value("citadel_vault_acts_total", {"act": "login", "outcome": "ok"}) == 2
