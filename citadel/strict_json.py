"""JSON that has one meaning: what `json.loads` lets pass and two readers would take differently is refused."""

from __future__ import annotations

import json
from typing import NoReturn

from citadel.errors import InvalidArgument, Reason


def load_object(data: bytes, *, max_bytes: int, reason: Reason) -> dict[str, object]:
    """Parse one JSON object in UTF-8; integers keep all their digits.

    Raises `InvalidArgument` with `reason` for more than `max_bytes`, for what is not JSON (RFC 8259) or not an object,
    for a member name that stands twice in one object, at any depth, and for text that UTF-8 cannot hold.
    """

    def unique_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
        # RFC 8259 section 4: with a name that stands twice, what a document means depends on who reads it.
        members = dict(pairs)
        if len(members) != len(pairs):
            raise InvalidArgument(reason, "a member name stands twice in one JSON object")
        return members

    def no_constant(name: str) -> NoReturn:
        raise InvalidArgument(reason, f"{name} is not JSON")

    if len(data) > max_bytes:
        raise InvalidArgument(reason, f"the JSON has {len(data)} bytes, more than {max_bytes}")
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=unique_members, parse_constant=no_constant)
        if b"\\ud" in data.lower():  # RFC 8259 section 8.2: half of a pair of surrogates is no text
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(reason, f"this is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidArgument(reason, "the JSON is not an object")
    return document
