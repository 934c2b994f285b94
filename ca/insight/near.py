"""IDs that look like the one that was asked for: a slip of the hand is the commonest reason for nothing (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from citadel.spiffe import SpiffeId

_MOST: Final = 3
_LIKENESS: Final = 0.8
# Comparing letter by letter is slow: beyond this number only IDs that share their last segment are compared so.
_MOST_COMPARED: Final = 2000


def near_misses(wanted: SpiffeId, granted: Iterable[SpiffeId]) -> tuple[SpiffeId, ...]:
    """At most three of `granted`: those that differ by trust domain or case alone, then those with a like path."""
    paths: dict[str, SpiffeId] = {}
    same: list[SpiffeId] = []
    for spiffe_id in granted:
        if spiffe_id == wanted or spiffe_id.path in paths:
            continue
        paths[spiffe_id.path] = spiffe_id
        if spiffe_id.path.casefold() == wanted.path.casefold():
            same.append(spiffe_id)
    if same:
        return tuple(sorted(same, key=str)[:_MOST])
    candidates = list(paths)
    if len(candidates) > _MOST_COMPARED:
        last = wanted.path.rpartition("/")[2].casefold()
        candidates = [path for path in candidates if path.casefold().endswith(f"/{last}")][:_MOST_COMPARED]
    return tuple(paths[path] for path in get_close_matches(wanted.path, candidates, n=_MOST, cutoff=_LIKENESS))
