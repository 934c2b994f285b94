"""Which pods there are, as far as the API server has told, for callers that may be a moment ahead of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from ca.kubernetes.accounts import Named
from ca.kubernetes.note import Note
from ca.kubernetes.pods import Pod, Pods

_PATIENCE: Final = 1.0  # seconds; a watch is behind by milliseconds


class Presence:
    """Looks at the pods of one cluster."""

    def __init__(self, pods: Pods, *, patience: float = _PATIENCE) -> None:
        self._pods = pods
        self._patience = patience
        self._changed = asyncio.Event()
        pods.follow(self._note)

    @property
    def is_known(self) -> bool:
        """Whether pods are followed just now. Until they are, nothing is said of one that is not found."""
        return self._pods.has_synced and self._pods.trouble is None

    def notes(self) -> Iterator[Note]:
        """That answers are old ones, while pods cannot be followed: what runs is not to end with the API server."""
        if self._pods.has_synced and self._pods.trouble is not None:
            yield Note(
                "Istio's proxies, and those that ztunnel asks for, get certificates by the pods as last told of:"
                " that a pod was deleted since is not noticed"
            )

    def has(self, uid: str) -> bool:
        """Whether this pod is there now, and has not ended."""
        return _alive(self._pods.with_uid(uid)) is not None

    async def pod(self, namespace: str, named: Named) -> Pod | None:
        """The pod that has not ended: waited for a moment, and then asked for. Raises as `Pods.asked`."""
        found = await self._found(lambda: self._pods.with_uid(named.uid))
        if found is None and self.is_known:
            found = await self._pods.asked(namespace, named.name, named.uid)
        return _alive(found)

    async def bound_pod(self, namespace: str, named: Named) -> Pod | None:
        """As `pod`, for whom its node matters: one is told of before it is bound, and until then as good as not known.

        Only where the API server itself says so is it on no node.
        """
        found = await self._found(lambda: _bound(self._pods.with_uid(named.uid)))
        if found is None and self.is_known:
            found = await self._pods.asked(namespace, named.name, named.uid)
        return _alive(found)

    async def on_node(self, node: str, *, namespace: str, account: str) -> Pod | None:
        """Some pod on this node with this service account that has not ended; waited and asked for as `pod` is.

        Not only one that runs: its network is there, and with it who asks for it, before its containers are.
        """

        def look() -> Pod | None:
            wanted = (namespace, account)
            pods = self._pods.on_node(node).values()
            return next((p for p in pods if (p.namespace, p.service_account) == wanted and not p.has_ended), None)

        found = await self._found(look)
        if found is None and self.is_known:
            asked = await self._pods.asked_on_node(node, namespace=namespace, account=account)
            found = next((pod for pod in asked if not pod.has_ended), None)
        return found

    async def _found(self, look: Callable[[], Pod | None]) -> Pod | None:
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


def _bound(pod: Pod | None) -> Pod | None:
    return pod if pod is not None and pod.node else None


def _alive(pod: Pod | None) -> Pod | None:
    return pod if pod is not None and not pod.has_ended else None
