"""How many parts a message has is counted on its bytes, before anything is built of it.

A limit of bytes alone says little: an empty element of a list is two bytes on the wire, hundreds in memory, and
microseconds of everybody's time wherever somebody goes through them. Whoever may send a few megabytes could send
millions of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError

from citadel.errors import InvalidArgument, Reason

_VARINT, _EIGHT_BYTES, _SIZED, _FOUR_BYTES = 0, 1, 2, 5


def bounded(method: str, read: Callable[[bytes], Any] | None, *, most: int) -> Callable[[bytes], Any] | None:
    """What reads a request of this method (`/package.Service/Method`), and refuses one of more parts unread.

    It raises `InvalidArgument` (`request_malformed`). A method that is not generated reads as it did.
    """
    try:
        kind = descriptor_pool.Default().FindMethodByName(method.strip("/").replace("/", ".")).input_type
    except KeyError:
        return read
    if read is None:
        return read

    def read_bounded(message: bytes) -> Any:
        check_parts(message, kind, most=most)
        return read(message)

    return read_bounded


def check_parts(message: bytes, kind: Descriptor, *, most: int) -> None:
    """Raise `InvalidArgument` (`request_malformed`) for a message with more fields and elements than `most`.

    Those of messages that hold no lists are not looked at: what stands twice there replaces what stood before. Raises
    `DecodeError` for bytes that are no message.
    """
    left = most
    todo = [(0, len(message), kind)]
    try:
        while todo:
            at, end, inside = todo.pop()
            lists = _with_lists(inside)
            while at < end:
                left -= 1
                if left < 0:
                    raise InvalidArgument(Reason.REQUEST_MALFORMED, f"a message of more than {most} parts")
                tag, at = _varint(message, at)
                size, at = _size(message, at, tag & 7)
                if tag & 7 == _SIZED and tag >> 3 in lists:
                    todo.append((at, at + size, lists[tag >> 3]))
                at += size
            if at != end:
                raise DecodeError("a part is longer than what it stands in")
    except IndexError:
        raise DecodeError("a message ends within a part") from None


def _size(message: bytes, at: int, wire_type: int) -> tuple[int, int]:
    """How long the value here is, and where it begins."""
    if wire_type == _SIZED:
        return _varint(message, at)
    if wire_type == _VARINT:
        return 0, _varint(message, at)[1]
    if wire_type == _EIGHT_BYTES:
        return 8, at
    if wire_type == _FOUR_BYTES:
        return 4, at
    raise DecodeError("a part of a kind that none of our messages has")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = message[at]
    if value < 0x80:
        return value, at + 1
    value &= 0x7F
    for number in range(1, 10):
        byte = message[at + number]
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return value, at + number + 1
    raise DecodeError("a number of more than ten bytes")


@cache
def _with_lists(kind: Descriptor) -> Mapping[int, Descriptor]:
    """Its fields, by their numbers, that are messages with a list somewhere within."""
    inner = {field.number: field.message_type for field in kind.fields if field.message_type is not None}
    return {number: each for number, each in inner.items() if _has_list(each, frozenset())}


def _has_list(kind: Descriptor, above: frozenset[str]) -> bool:
    if kind.full_name in above:
        return False
    here = above | {kind.full_name}
    return any(
        field.is_repeated or (field.message_type is not None and _has_list(field.message_type, here))
        for field in kind.fields
    )
