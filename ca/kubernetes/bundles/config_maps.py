"""A ConfigMap with the trust bundle, in every namespace that is meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from ca.kubernetes.away import is_away
from ca.kubernetes.backlog import Backlog
from ca.kubernetes.bundles.contents import Contents, digest
from ca.kubernetes.bundles.disputes import Disputes
from ca.kubernetes.bundles.rate import WriteRate
from ca.kubernetes.bundles.rivals import Rivals
from ca.kubernetes.following import Followed
from ca.kubernetes.settings import ConfigMapSettings
from citadel.clock import Clock
from citadel.errors import CitadelError, Reason, Unavailable
from citadel.kubernetes.informer import Informer
from citadel.kubernetes.ports import KubeObject, KubernetesApi

NAMESPACES: Final = "/api/v1/namespaces"
_CONFIG_MAPS: Final = "/api/v1/configmaps"
_AT_ONCE: Final = 8
_MOST_LOOKED_AT: Final = 20  # namespaces in which it is found out who else writes there

Digests: TypeAlias = Mapping[str, str]  # by the key in the ConfigMap


@dataclass(frozen=True, slots=True)
class Held:
    """What one holds. Nobody can change what is immutable, but it can be deleted."""

    digests: Digests
    is_immutable: bool = False


_NOTHING: Final = Held({})


def is_lasting(namespace: KubeObject) -> bool | None:
    """What is kept of a namespace: True, or None for one that is on its way out and takes nothing new."""
    meta, status = namespace.get("metadata") or {}, namespace.get("status") or {}
    return None if meta.get("deletionTimestamp") or status.get("phase") == "Terminating" else True


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How it is with the ConfigMaps of one name: how many are meant, and why some cannot be kept, by namespace.

    `disputed` are the namespaces where somebody else writes it again and again; `rivals` are some of who do.
    """

    name: str
    meant: int
    right: int
    failing: Mapping[str, CitadelError]
    disputed: Sequence[str] = ()
    rivals: Sequence[str] = ()


class ConfigMaps:
    """Those of one `name`; each of `kept` is a key in them. What else is in them is left alone."""

    def __init__(
        self,
        api: KubernetesApi,
        name: str,
        kept: Sequence[ConfigMapSettings],
        *,
        namespaces: Informer[bool],
        contents: Callable[[], Contents],
        rate: WriteRate,
        clock: Clock,
    ) -> None:
        self._api = api
        self._name = name
        self._kept = kept
        self._contents = contents
        self._rate = rate
        self._clock = clock
        self._namespaces = namespaces
        self._found = Informer(api, _CONFIG_MAPS, keep=self._kept_of, fields=f"metadata.name={name}", clock=clock)
        self._backlog = Backlog(
            self._bring_in_order,
            is_away=lambda: is_away(namespaces, self._found),
            clock=clock,
            at_once=_AT_ONCE,
        )
        self._disputes = Disputes(clock=clock)
        self._rivals = Rivals(api, name, most=_MOST_LOOKED_AT)
        self.rewritten_at: float | None = None  # when one was last brought from one bundle to another
        self._rewritten: set[str] = set()  # the namespaces that have had the bundle in force
        self.put_back_at: dict[str, float] = {}  # by namespace: when it was last put back, after others changed it
        self._found.follow(self._config_map_changed)
        namespaces.follow(self._namespace_changed)

    async def follow(self) -> None:
        """Follow those that there are, for ever."""
        await self._found.run()

    async def keep(self) -> None:
        """Bring them in order, for ever: once it is known what there is, so that what is right is not written."""
        await self._namespaces.until_synced()
        await self._found.until_synced()
        await self._backlog.run()

    def bundle_changed(self) -> None:
        """The bundle says something else now."""
        self._rewritten.clear()
        for namespace in self._namespaces.current:
            self._backlog.add(namespace)

    @property
    def name(self) -> str:
        """What each of them is called."""
        return self._name

    @property
    def found(self) -> Followed:
        """Those that there are."""
        return self._found

    def standing(self) -> Standing:
        """How it is with them."""
        meant = [namespace for namespace in self._namespaces.current if self._keys(namespace)]
        right = sum(1 for namespace in meant if not self._is_behind(namespace))
        disputed = self._disputes.open()
        rivals = {who for at, found in self._rivals.found.items() if at in disputed for who in found}
        return Standing(
            name=self._name,
            meant=len(meant),
            right=right,
            failing=self._backlog.failing,
            disputed=disputed,
            rivals=sorted(rivals),
        )

    def stale(self, *, forms: frozenset[str]) -> list[str]:
        """The namespaces in which somebody may read another bundle than the one in force, in one of these forms.

        Where there is none nobody reads it, and nobody who waits for it can be broken by what it will say.
        """
        found = []
        for namespace in self._namespaces.current:
            wanted = {each.key for each in self._keys(namespace) if each.format in forms}
            held = self._held(namespace).digests
            if any(held[key] != text for key, text in self._wanted(namespace).items() if key in wanted & held.keys()):
                found.append(namespace)
        return found

    async def _bring_in_order(self, namespace: str) -> None:
        if not self._is_behind(namespace):
            return
        if self._held(namespace).is_immutable:
            raise Unavailable(Reason.KUBERNETES_REFUSED, "it is immutable: delete it, and it is made anew")
        if self._disputes.is_open(namespace):
            # Before the write takes it from whoever has it.
            await self._rivals.look(namespace, disputed=self._disputes.open())
        await self._rate.turn()
        before = self._held(namespace).digests
        contents = self._contents()
        await self._api.apply(
            f"{NAMESPACES}/{namespace}/configmaps/{self._name}",
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {**contents.metadata(self._name), "namespace": namespace},
                "data": {each.key: contents.texts[each.format] for each in self._keys(namespace)},
            },
        )
        if before:
            self._note_rewritten(namespace, is_in_force=contents is self._contents())

    def _note_rewritten(self, namespace: str, *, is_in_force: bool) -> None:
        """All wait for who gets a new bundle; who has had it and alters it is waited for by name alone."""
        if is_in_force and namespace in self._rewritten:
            self.put_back_at[namespace] = self._clock.monotonic()
            return
        if is_in_force:  # or the next that is written there is no new one
            self._rewritten.add(namespace)
        self.rewritten_at = self._clock.monotonic()

    def _is_behind(self, namespace: str) -> bool:
        if namespace not in self._namespaces.current:
            return False
        held, wanted = self._held(namespace).digests, self._wanted(namespace)
        return any(held.get(key) != text for key, text in wanted.items())

    def _keys(self, namespace: str) -> list[ConfigMapSettings]:
        return [each for each in self._kept if each.namespaces.admits(namespace)]

    def _wanted(self, namespace: str) -> Digests:
        contents = self._contents()
        return {each.key: contents.digests[each.format] for each in self._keys(namespace)}

    def _held(self, namespace: str) -> Held:
        return self._found.current.get(f"{namespace}/{self._name}", _NOTHING)

    def _kept_of(self, config_map: KubeObject) -> Held:
        data = config_map.get("data") or {}
        digests = {each.key: digest(str(data[each.key])) for each in self._kept if each.key in data}
        return Held(digests, is_immutable=config_map.get("immutable") is True)

    def _namespace_changed(self, key: str, before: bool | None, after: bool | None) -> None:
        del before
        if after is None:
            self._backlog.forget(key)
            self._disputes.forget(key)
            self.put_back_at.pop(key, None)
        else:
            self._backlog.add(key, urgent=True)  # its pods cannot start without

    def _config_map_changed(self, key: str, before: Held | None, after: Held | None) -> None:
        namespace, wanted = key.partition("/")[0], self._wanted(key.partition("/")[0])
        was_right = before is not None and all(before.digests.get(each) == text for each, text in wanted.items())
        if not self._is_behind(namespace):
            return
        if was_right:
            self._rewritten.add(namespace)
            self._backlog.add(namespace, after=self._disputes.pause(namespace))
        elif not self._backlog.waits_for(namespace) or (after is None and before is not None and before.is_immutable):
            self._backlog.add(namespace)
