"""The pods of this node, followed, so that asking for one costs no call."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from citadel.clock import Clock
from citadel.kubernetes.informer import Informer
from citadel.kubernetes.ports import KubernetesApi
from citadel.waiting import news_or_time
from sds.attest.kubernetes.facts import NodePod, pod_of

PODS: Final = "/api/v1/pods"
_MOST_GONE: Final = 4096  # UIDs of pods that were deleted; a node has 250 pods at a time or less


class NodePods:
    """The pods that are bound to `node`, by the UIDs that their cgroups have. Lives on one event loop."""

    def __init__(self, api: KubernetesApi, *, node: str, clock: Clock) -> None:
        self._informer = Informer(api, PODS, keep=pod_of, clock=clock, fields=f"spec.nodeName={node}")
        self._informer.follow(self._take)
        self._clock = clock
        self._by_uid: dict[str, dict[str, NodePod]] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._watched: dict[asyncio.Event, str] = {}

    def __len__(self) -> int:
        return len(self._informer.current)

    @property
    def has_synced(self) -> bool:
        """Whether all of them are known. Until then one that is not known may exist nevertheless."""
        return self._informer.has_synced

    async def run(self) -> None:
        """Follow them for ever."""
        await self._informer.run()

    def find(self, uid: str) -> NodePod | None:
        """The pod whose cgroup has this UID; none where several say so.

        Anybody who may make pods can write that one is the mirror of a pod that kubelet runs by itself; what the API
        server says of UIDs nobody else can.
        """
        named = list(self._by_uid.get(uid, {}).values())
        real = [pod for pod in named if not pod.is_mirror]
        found = real or named
        return found[0] if len(found) == 1 else None

    def is_gone(self, uid: str) -> bool:
        """Whether it was one of them and was deleted, not long ago."""
        return uid in self._gone

    async def until_known(self, uid: str, *, seconds: float) -> NodePod | None:
        """The pod as soon as it is known; None where that takes longer."""
        end = self._clock.monotonic() + seconds
        news = asyncio.Event()
        self.wake_at_change(news, uid)
        try:
            while (pod := self.find(uid)) is None and not self.is_gone(uid):
                if (left := end - self._clock.monotonic()) <= 0:
                    return None
                news.clear()
                await news_or_time(news, left, clock=self._clock)
            return pod
        finally:
            self.wake_at_change(news, None)

    def wake_at_change(self, event: asyncio.Event, uid: str | None) -> None:
        """Set `event` whenever this pod comes, changes or goes; None takes an earlier wish back."""
        before = self._watched.pop(event, None)
        if before is not None and (watchers := self._watchers.get(before)) is not None:
            watchers.discard(event)
            if not watchers:
                del self._watchers[before]
        if uid is not None:
            self._watched[event] = uid
            self._watchers.setdefault(uid, set()).add(event)

    def _take(self, key: str, before: NodePod | None, after: NodePod | None) -> None:
        if before is not None:
            of_uid = self._by_uid[before.kubelet_uid]
            del of_uid[key]
            if not of_uid:
                del self._by_uid[before.kubelet_uid]
                self._gone[before.kubelet_uid] = None
                if len(self._gone) > _MOST_GONE:
                    self._gone.popitem(last=False)
        if after is not None:
            self._by_uid.setdefault(after.kubelet_uid, {})[key] = after
            self._gone.pop(after.kubelet_uid, None)
        for uid in {each.kubelet_uid for each in (before, after) if each is not None}:
            for event in self._watchers.get(uid, ()):
                event.set()
