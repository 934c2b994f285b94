"""Which pods there are, as far as the API server has told, for callers that may be a moment ahead of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from ca.kubernetes.pods import Pod, Pods

_PATIENCE: Final = 1.0  # seconds; a watch is behind by milliseconds

_Found = TypeVar("_Found")


class Presence:
    """Looks at the pods of one cluster."""

    def __init__(self, pods: Pods, *, patience: float = _PATIENCE) -> None:
        self._pods = pods
        self._patience = patience
        self._changed = asyncio.Event()
        pods.follow(self._note)

    @property
    def is_known(self) -> bool:
        """Whether a pod that is not found is not there, and is not only not told of."""
        return self._pods.has_synced and self._pods.trouble is None

    def has(self, uid: str) -> bool:
        """Whether this pod is there now, and has not ended."""
        return _alive(self._pods.with_uid(uid)) is not None

    async def with_uid(self, uid: str) -> Pod | None:
        """The pod that has not ended, waited for a moment."""
        return await self._found(lambda: _alive(self._pods.with_uid(uid)))

    async def on_node(self, node: str, *, namespace: str, account: str) -> Pod | None:
        """Some pod on this node with this service account that has not ended, waited for a moment.

        Not only one that runs: its network is there, and with it who asks for it, before its containers are.
        """

        def look() -> Pod | None:
            wanted = (namespace, account)
            pods = self._pods.on_node(node).values()
            return next((p for p in pods if (p.namespace, p.service_account) == wanted and not p.has_ended), None)

        return await self._found(look)

    async def _found(self, look: Callable[[], _Found | None]) -> _Found | None:
        found = look()
        if found is not None or not self.is_known:
            return found
        try:
            async with asyncio.timeout(self._patience):
                while (found := look()) is None:
                    await self._changed.wait()
        except TimeoutError:
            return None
        return found

    def _note(self, key: str, before: Pod | None, after: Pod | None) -> None:
        del key, before, after
        self._changed.set()  # whoever waits looks again
        self._changed = asyncio.Event()


def _alive(pod: Pod | None) -> Pod | None:
    return pod if pod is not None and not pod.has_ended else None
