"""What `citadel-cli explain --pid` says of each entry."""

from __future__ import annotations

import pytest

from citadel._wire import agent_local_pb2 as pb
from cli.admin.explain import _entry_row
from tests.certificates import NOW

MISS = pb.Miss(wanted="unix:uid:1", seen="unix:uid:2")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (pb.EntryExplanation(), "yes"),
        (pb.EntryExplanation(expired=True), "expired"),
        (pb.EntryExplanation(misses=[MISS]), "wants unix:uid:1, seen unix:uid:2"),
        (pb.EntryExplanation(for_no_pod=True, expired=True), "not for pods: it has no k8s: selector"),
        (
            pb.EntryExplanation(for_no_pod=True, misses=[MISS]),
            "wants unix:uid:1, seen unix:uid:2; not for pods: it has no k8s: selector",
        ),
    ],
)
def test_an_entry_matches_or_says_why_not(entry: pb.EntryExplanation, words: str) -> None:
    assert _entry_row(entry, NOW)[1] == words
