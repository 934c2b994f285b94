"""Which entries match a caller: one in a pod is no user of the node."""

from __future__ import annotations

import pytest

from citadel.selector import Selector
from sds.serve.callers import Attestation
from sds.serve.matching import EntryIndex
from tests.certificates import NOW
from tests.unit.sds.holding import UID_1, entry

NS, SA = Selector("k8s", "ns:shop"), Selector("k8s", "sa:web")
INDEX = EntryIndex([entry("user"), entry("pod", NS), entry("user-of-pod", UID_1, NS)])


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        (Attestation(selectors=frozenset({UID_1})), ["user"]),
        (Attestation(selectors=frozenset({UID_1, NS}), is_in_pod=True), ["pod", "user-of-pod"]),
        (Attestation(selectors=frozenset({UID_1, SA}), is_in_pod=True), []),
        (Attestation(selectors=frozenset({NS}), is_in_pod=True), ["pod"]),
        (Attestation(selectors=frozenset({UID_1}), is_in_pod=True), []),  # of its pod nothing is known, or it is gone
    ],
)
def test_a_caller_in_a_pod_gets_only_what_asks_for_something_of_pods(seen: Attestation, found: list[str]) -> None:
    assert sorted(each.id for each in INDEX.matching(seen.for_entries, NOW)) == found
