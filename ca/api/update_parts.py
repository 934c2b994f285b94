"""One change for an agent as messages of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import types_pb2
from citadel.entry import Entry
from citadel.wire import entry_to_wire

# What agents take in one message is bounded, and an entry can have hundreds of kilobytes.
_ENTRIES_PER_PART: Final = 500
_IDS_PER_PART: Final = 10_000
_BYTES_PER_PART: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Rest:
    """What of one change can be too much for one message."""

    lists: Sequence[types_pb2.RevocationList]
    bundles: Sequence[types_pb2.Bundle]
    revoked: Sequence[types_pb2.RevokedIdentities]
    removed: Sequence[str]
    entries: Sequence[Entry]


def in_parts(first: pb.Update, rest: Rest, *, revision: int, is_snapshot: bool) -> Iterator[pb.Update]:
    """One change in messages of bounded size; `first` says what else it is about."""
    part, size = first, first.ByteSize()

    def unfinished() -> pb.Update:
        part.revision, part.snapshot, part.more = revision, is_snapshot, True
        return part

    for identities in rest.revoked:
        yield unfinished()
        part, size = pb.Update(revoked_identities=identities), identities.ByteSize()
    large: Sequence[types_pb2.RevocationList | types_pb2.Bundle] = (*rest.lists, *rest.bundles)
    for each in large:
        more = each.ByteSize()
        if size and size + more > _BYTES_PER_PART:
            yield unfinished()
            part, size = pb.Update(), 0
        _put(each, part)
        size += more
    for start in range(0, len(rest.removed), _IDS_PER_PART):
        if part.removed_entry_ids or size > _BYTES_PER_PART:
            yield unfinished()
            part, size = pb.Update(), 0
        part.removed_entry_ids.extend(rest.removed[start : start + _IDS_PER_PART])
    size = part.ByteSize()
    for message in map(entry_to_wire, rest.entries):
        more = message.ByteSize()
        if size and (len(part.entries) >= _ENTRIES_PER_PART or size + more > _BYTES_PER_PART):
            yield unfinished()
            part, size = pb.Update(), 0
        part.entries.append(message)
        size += more
    part.revision, part.snapshot = revision, is_snapshot
    yield part


def _put(each: types_pb2.RevocationList | types_pb2.Bundle, part: pb.Update) -> None:
    if isinstance(each, types_pb2.Bundle):
        part.bundles.append(each)
    else:
        part.revocations.lists.append(each)
