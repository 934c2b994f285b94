"""A ClusterTrustBundle with the trust bundle, where the API server has such objects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ca.kubernetes.away import is_away
from ca.kubernetes.backlog import Backlog
from ca.kubernetes.bundles.contents import Contents, digest
from ca.kubernetes.bundles.disputes import Disputes
from ca.kubernetes.bundles.rate import WriteRate
from ca.kubernetes.discovery import WhileServed
from ca.kubernetes.settings import ClusterTrustBundleSettings
from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.kubernetes.informer import Informer
from citadel.kubernetes.ports import KubeObject, KubernetesApi

RESOURCE: Final = "clustertrustbundles"


class ClusterTrustBundle:
    """The one that the settings name."""

    def __init__(
        self,
        api: KubernetesApi,
        settings: ClusterTrustBundleSettings,
        *,
        contents: Callable[[], Contents],
        rate: WriteRate,
        clock: Clock,
    ) -> None:
        self._api = api
        self._settings = settings
        self._contents = contents
        self._rate = rate
        self._clock = clock
        self._served = WhileServed(api, RESOURCE, clock=clock)
        self._at = ""
        self._found: Informer[str] | None = None
        self._backlog: Backlog | None = None
        self._disputes = Disputes(clock=clock)
        self.rewritten_at: float | None = None  # when it was last brought from one bundle to another

    @property
    def name(self) -> str:
        """Its name."""
        return self._settings.name

    @property
    def is_absent(self) -> bool:
        """Whether the API server has no such objects."""
        return self._served.is_absent

    @property
    def trouble(self) -> CitadelError | None:
        """Why it cannot be followed just now."""
        return self._served.trouble if self._found is None else self._found.trouble

    @property
    def failing(self) -> CitadelError | None:
        """Why it could not be written the last time."""
        return self._backlog.failing.get(self.name) if self._backlog is not None else None

    @property
    def has_synced(self) -> bool:
        """Whether it is known what there is, be it that the API server has no such objects."""
        return self.is_absent if self._found is None else self._found.has_synced

    @property
    def is_stale(self) -> bool:
        """Whether somebody may read another bundle there than the one in force."""
        held = self._found.current.get(self.name) if self._found is not None else None
        return held is not None and held != self._contents().digests["pem"]

    async def run(self) -> None:
        """Keep it, for ever."""
        await self._served.run(self._keep)

    def bundle_changed(self) -> None:
        """The bundle says something else now."""
        if self._backlog is not None:
            self._backlog.add(self.name)

    async def _keep(self, at: str) -> None:
        self._at = f"{at}/{RESOURCE}"
        found = Informer(
            self._api,
            self._at,
            keep=lambda each: digest(str((each.get("spec") or {}).get("trustBundle", ""))),
            fields=f"metadata.name={self.name}",
            clock=self._clock,
        )
        backlog = Backlog(self._bring_in_order, is_away=lambda: is_away(found), clock=self._clock, at_once=1)
        found.follow(self._changed)
        self._found, self._backlog = found, backlog
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(found.run())
                await found.until_synced()
                backlog.add(self.name)
                both.create_task(backlog.run())
        finally:
            self._found = self._backlog = None  # nobody can read there any more what was held

    async def _bring_in_order(self, name: str) -> None:
        assert self._found is not None  # noqa: S101 - for the type checker
        contents, before = self._contents(), self._found.current.get(name)
        if before == contents.digests["pem"]:
            return
        await self._rate.turn()
        await self._api.apply(f"{self._at}/{name}", self._body(self._contents()))
        if before is not None:
            self.rewritten_at = self._clock.monotonic()

    def _body(self, contents: Contents) -> KubeObject:
        signer = {"signerName": self._settings.signer_name} if self._settings.signer_name is not None else {}
        return {
            "apiVersion": self._at.removeprefix("/apis/").rpartition("/")[0],
            "kind": "ClusterTrustBundle",
            "metadata": contents.metadata(self.name),
            "spec": {**signer, "trustBundle": contents.texts["pem"]},
        }

    def _changed(self, key: str, before: str | None, after: str | None) -> None:
        wanted = self._contents().digests["pem"]
        if after == wanted or self._backlog is None:
            return
        if before == wanted:
            self._backlog.add(key, after=self._disputes.pause(key))
        elif not self._backlog.waits_for(key):
            self._backlog.add(key)
