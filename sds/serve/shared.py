"""Responses that many streams are sent alike, made once: a copy of a large bundle for each stream stays in memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Final, TypeVar, cast

from google.protobuf.message import Message

from sds.serve.resource import BundleFacts, Resource

M = TypeVar("M", bound=Message)

_MOST: Final = 16


class SharedResponses:
    """Remembers a few responses, of bundles alone: what holds a private key is not kept longer than it is sent.

    Streams that were opened and served together have the same nonces, so that each has its own and they share them.
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, Message] = {}

    def get(self, key: Hashable, resources: Iterable[Resource], make: Callable[[], M]) -> M:
        """The response with this content under this key, which is never changed; or what `make` makes."""
        if not all(isinstance(each.facts, BundleFacts) for each in resources):
            return make()
        made = self._made.pop(key, None) or make()
        self._made[key] = made  # the newest last
        if len(self._made) > _MOST:
            del self._made[next(iter(self._made))]
        return cast("M", made)
