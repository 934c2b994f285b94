"""What makes the server degraded, and what makes it dead."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ca.authority.jwt_model import JwtAuthority
from ca.authority.model import Authority, AuthorityKind, AuthorityState
from ca.insight.condition import agents_check, authority_check, revocation_check, token_key_check
from citadel.probes import Check, Health, Readiness
from tests import certificates
from tests.csrs import new_key

START = datetime(2026, 1, 1, tzinfo=UTC)


def authority() -> Authority:
    certificate = certificates.root().certificate
    return Authority(
        id="a", kind=AuthorityKind.ISSUER, state=AuthorityState.ACTIVE, key_id="k", certificate=certificate,
        parent_id=None, created_at=START,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("left", "health"),
    [(0.9, Health.GOOD), (0.26, Health.GOOD), (0.24, Health.DEGRADED), (0.0, Health.DEAD), (-0.1, Health.DEAD)],
)
def test_an_authority_is_degraded_near_its_end_and_dead_after_it(left: float, health: Health) -> None:
    made = authority()
    now = made.not_after - (made.not_after - made.not_before) * left
    check = authority_check("issuing authority", made, now=now, least_left=0.25)
    assert check.health is health
    assert made.not_after.isoformat() in check.text


@pytest.mark.parametrize(
    ("left", "health"),
    [(0.9, Health.GOOD), (0.26, Health.GOOD), (0.24, Health.DEGRADED), (-0.1, Health.DEGRADED)],
)
def test_a_key_for_tokens_near_its_end_and_after_it_is_degraded_and_takes_nothing_else_along(
    left: float, health: Health
) -> None:
    key = JwtAuthority(
        id="t", state=AuthorityState.ACTIVE, key_id="k", public_key=new_key().public_key(),
        not_before=START, not_after=START + timedelta(days=7, microseconds=468651),
    )  # fmt: skip
    check = token_key_check(key, now=key.not_after - timedelta(days=7) * left, least_left=0.25)
    assert (check.health, "until 2026-01-08T00:00:00+00:00" in check.text) == (health, True)


@pytest.mark.parametrize(
    ("joined", "connected", "health"),
    [(0, 0, Health.GOOD), (2, 2, Health.GOOD), (2, 1, Health.GOOD), (2, 0, Health.DEGRADED)],
)
def test_a_server_that_lost_all_its_agents_is_degraded(joined: int, connected: int, health: Health) -> None:
    assert agents_check(joined=joined, connected=connected).health is health


@pytest.mark.parametrize(("trouble", "health"), [("", Health.GOOD), ("the key is gone", Health.DEGRADED)])
def test_a_server_whose_revocation_lists_are_not_pushed_is_degraded(trouble: str, health: Health) -> None:
    check = revocation_check(trouble)
    assert (check.health, trouble in check.text) == (health, True)


def test_so_is_one_whose_lists_are_behind() -> None:
    check = revocation_check("", behind="the list of i1 lacks what was revoked last")
    assert (check.health, check.text) == (Health.DEGRADED, "the list of i1 lacks what was revoked last")


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([], "ready"),
        ([Health.GOOD, Health.GOOD], "ready"),
        ([Health.GOOD, Health.DEGRADED], "degraded"),
        ([Health.DEGRADED, Health.DEAD, Health.GOOD], "not_ready"),
    ],
)
def test_the_worst_part_says_how_the_process_is(parts: list[Health], status: str) -> None:
    checks = [Check(f"part {number}", health, health.name) for number, health in enumerate(parts)]
    readiness = Readiness.of(checks)
    assert readiness.status == status
    assert list(readiness.checks.values()) == [health.name for health in parts]


def test_time_alone_moves_it_from_good_to_dead() -> None:
    made = authority()
    seen = [
        authority_check(
            "x", made, now=made.not_before + (made.not_after - made.not_before) * part / 20, least_left=0.25
        )
        for part in range(22)
    ]
    healths = [check.health for check in seen]
    assert healths == sorted(healths)
    assert set(healths) == set(Health)
    assert timedelta(0) < made.not_after - made.not_before
