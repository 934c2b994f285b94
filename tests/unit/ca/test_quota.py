"""How much one agent has signed at once under the default limits."""

from __future__ import annotations

import pytest

from ca.api.settings import LimitSettings
from ca.issuance.quota import Quota
from citadel.errors import InvalidArgument, Reason, ResourceExhausted
from tests.clock import FakeClock
from tests.unit.ca.values import NODE_1, NODE_2


def test_a_node_of_a_thousand_pods_waits_for_nothing_also_when_all_are_renewed_at_once() -> None:
    limits, clock = LimitSettings(), FakeClock()
    quota = Quota(max_batch=limits.batch, per_second=limits.svids_per_second, clock=clock)
    for _ in range(2 * 1000 // limits.batch):
        quota.take(NODE_1, limits.batch)
    with pytest.raises(ResourceExhausted) as refused:
        quota.take(NODE_1, 1)
    assert refused.value.reason is Reason.TOO_MANY_REQUESTS
    quota.take(NODE_2, limits.batch)  # each for itself
    clock.leap(1)
    quota.take(NODE_1, int(limits.svids_per_second))


def test_what_is_too_large_is_known_before_anything_is_taken() -> None:
    limits = LimitSettings()
    quota = Quota(max_batch=limits.batch, per_second=limits.svids_per_second, clock=FakeClock())
    for _ in range(10):
        quota.check(limits.batch)
    with pytest.raises(InvalidArgument) as refused:
        quota.check(limits.batch + 1)
    assert refused.value.reason is Reason.BATCH_TOO_LARGE
    quota.take(NODE_1, limits.batch)
