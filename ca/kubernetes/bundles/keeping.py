"""Everything in one cluster that holds the trust bundle, and how far it is behind."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from ca.kubernetes.bundles.config_maps import NAMESPACES, ConfigMaps, Standing, is_lasting
from ca.kubernetes.bundles.contents import Contents, Form, OwnBundle
from ca.kubernetes.bundles.rate import WriteRate
from ca.kubernetes.bundles.rivals import ending
from ca.kubernetes.bundles.trust_bundle import ClusterTrustBundle
from ca.kubernetes.following import Basis
from ca.kubernetes.note import Note
from ca.kubernetes.permissions import TRUST_BUNDLES
from ca.kubernetes.settings import BundleSettings, ConfigMapSettings
from ca.rotation.model import Holder
from citadel._wire.rotation_pb2 import ClusterView
from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.kubernetes.informer import Informer
from citadel.kubernetes.ports import KubernetesApi

# kubelet looks at what it has mounted once a minute, with some jitter, and follows changes until then.
_KUBELETS_HAVE_IT: Final = 90.0
_MOST_NAMED: Final = 3
_MOST_ALONE: Final = 20  # so many namespaces are waited for each under a name of its own
_OF_ALL: Final = "ClusterTrustBundle"  # no namespace can be called so
_ALTERED: Final = "Altered"  # nor so
_NOT_YET: Final = "the bundle is not written yet"


class BundleKeeping:
    """Keeps them all, and fulfils `ca.rotation.ports.Beyond`: a rotation waits until what is in use says what is new.

    Where the bundle has never been is not waited for: nobody there trusts anything by it yet.
    """

    def __init__(
        self, api: KubernetesApi, settings: BundleSettings, own: OwnBundle, *, cluster: str, clock: Clock
    ) -> None:
        self._name = f"kubernetes/{cluster}/bundles"  # what a person may skip; no agent is called so
        self._own = own
        self._clock = clock
        self._contents = Contents.of(own.bundle())
        self._started = clock.now()
        self._begun = clock.monotonic()  # an earlier process may have written a moment before
        rate = WriteRate(settings.writes_per_second, clock=clock)
        self._namespaces = Informer(api, NAMESPACES, keep=is_lasting, clock=clock)
        self._config_maps = [
            ConfigMaps(
                api,
                name,
                kept,
                namespaces=self._namespaces,
                contents=lambda: self._contents,
                rate=rate,
                clock=clock,
            )
            for name, kept in _by_name(settings.config_maps).items()
        ]
        named = settings.cluster_trust_bundle
        self._trust_bundle = (
            ClusterTrustBundle(api, named, contents=lambda: self._contents, rate=rate, clock=clock)
            if named is not None
            else None
        )
        self._forms = {each.format for each in settings.config_maps} | ({"pem"} if named is not None else set())
        own.watch(self._bundle_changed)

    async def run(self) -> None:
        """Keep everything, for ever."""
        async with asyncio.TaskGroup() as group:
            if self._config_maps:
                group.create_task(self._namespaces.run())
            for each in self._config_maps:
                group.create_task(each.follow())
                group.create_task(each.keep())
            if self._trust_bundle is not None:
                group.create_task(self._trust_bundle.run())

    def without(self, *, is_jwt: bool) -> Sequence[Holder]:
        forms: frozenset[Form] = frozenset({"spiffe"} if is_jwt else {"pem", "spiffe"})
        if not forms & self._forms:
            return ()
        for each in self.bases():
            if not each.followed.has_synced and (each.resource != TRUST_BUNDLES or "pem" in forms):
                return [self._never_read(each)]
        stale = self._stale(forms)
        # Also for those that are left once one was skipped.
        return [*self._behind(stale), *self._being_read(), *self._put_back(stale)]

    def depending(self, old_ids: Collection[str], now: datetime) -> Sequence[Holder]:
        del old_ids, now  # whoever has a certificate is known from the ledger
        return ()

    def clusters(self) -> Sequence[ClusterView]:
        return ()

    def bases(self) -> Iterator[Basis]:
        """What all of it rests on."""
        if self._config_maps:
            yield Basis("its namespaces", "namespaces", self._namespaces)
        for each in self._config_maps:
            yield Basis(f"its ConfigMaps {each.name}", "configmaps", each.found)
        if self._trust_bundle is not None:
            yield Basis(f"its ClusterTrustBundle {self._trust_bundle.name}", TRUST_BUNDLES, self._trust_bundle)

    def standings(self) -> list[Standing]:
        """How it is with the ConfigMaps, by name."""
        return [each.standing() for each in self._config_maps]

    def notes(self) -> Iterator[Note]:
        """What a person should know."""
        for standing in self.standings():
            yield from _notes_of(standing)
        if (bundle := self._trust_bundle) is None:
            return
        if bundle.is_absent:
            yield Note("no ClusterTrustBundle is kept: this API server has no such objects")
        elif bundle.failing is not None:
            yield Note(f"ClusterTrustBundle {bundle.name} cannot be kept{_why(bundle.failing)}", is_trouble=True)

    def _never_read(self, basis: Basis) -> Holder:
        """Nobody knows what stands there, so only a person can say that it is not to be waited for."""
        words = f"{basis.what}: not read since the server was started at {self._started:%Y-%m-%dT%H:%M:%SZ}"
        skip = f"`citadel-cli rotate skip {self._name}` goes on without this cluster"
        return Holder(name=self._name, words=f"{words}{_why(basis.followed.trouble)}; {skip}")

    def _bundle_changed(self) -> None:
        contents = Contents.of(self._own.bundle())
        if contents == self._contents:
            return
        self._contents = contents
        for each in self._config_maps:
            each.bundle_changed()
        if self._trust_bundle is not None:
            self._trust_bundle.bundle_changed()

    def _stale(self, forms: frozenset[Form]) -> dict[str, list[str]]:
        """What says something else than the bundle in force, by namespace."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for each in self._config_maps:
            standing = each.standing()
            for namespace in each.stale(forms=forms):
                found[namespace].append(f"{standing.name} in {namespace}{_why(standing.failing.get(namespace))}")
        if (bundle := self._trust_bundle) is not None and "pem" in forms and bundle.is_stale:
            found[_OF_ALL].append(f"ClusterTrustBundle {bundle.name}{_why(bundle.trouble or bundle.failing)}")
        return dict(sorted(found.items()))

    def _behind(self, stale: Mapping[str, Sequence[str]]) -> Iterator[Holder]:
        """One each, so that who holds up all others can be skipped alone; of many, one for all."""
        if len(stale) <= _MOST_ALONE:
            for where, words in stale.items():
                # Who skips the cluster skips it too.
                yield Holder(name=f"{self._name}/{where}", agent=self._name, words=f"{_NOT_YET}: {'; '.join(words)}")
            return
        named = [each for words in stale.values() for each in words]
        more = f"; {len(named) - _MOST_NAMED} more"
        yield Holder(name=self._name, words=f"{_NOT_YET}: {'; '.join(named[:_MOST_NAMED])}{more}")

    def _being_read(self) -> list[Holder]:
        of_bundle = self._trust_bundle.rewritten_at if self._trust_bundle is not None else None
        times = [at for at in (of_bundle, *(each.rewritten_at for each in self._config_maps)) if at is not None]
        left = self._left_of(max([self._begun, *times]))
        if left <= timedelta(0):
            return []
        words = "kubelets bring the bundle into pods, and must have had the time for it"
        return [Holder(name=self._name, words=words, until=self._clock.now() + left, is_mere_time=True)]

    def _put_back(self, stale: Collection[str]) -> Iterator[Holder]:
        """Where somebody else changed what was right: others are not held up by who does so again and again."""
        times: defaultdict[str, list[float]] = defaultdict(list)
        for each in self._config_maps:
            for namespace, at in each.put_back_at.items():
                times[namespace].append(at)
        lefts = {where: self._left_of(max(at)) for where, at in sorted(times.items()) if where not in stale}
        lefts = {where: left for where, left in lefts.items() if left > timedelta(0)}
        words, now = (
            "others changed the bundle there; kubelets must have had the time to bring it back",
            self._clock.now(),
        )
        if len(lefts) <= _MOST_ALONE:
            for where, left in lefts.items():
                yield Holder(name=f"{self._name}/{where}", agent=self._name, words=words, until=now + left)
            return
        named = ", ".join([*lefts][:_MOST_NAMED])
        until = now + max(lefts.values())
        # A name of their own, so that who skips them skips no namespace that is behind.
        yield Holder(
            name=f"{self._name}/{_ALTERED}", agent=self._name, words=f"{words}: {named}, and more", until=until
        )

    def _left_of(self, written: float) -> timedelta:
        """How long kubelets may still take to bring into pods what was written then."""
        return timedelta(seconds=written + _KUBELETS_HAVE_IT - self._clock.monotonic())


def _by_name(settings: Sequence[ConfigMapSettings]) -> dict[str, list[ConfigMapSettings]]:
    """Those of one name are one object, which is written as a whole."""
    found: defaultdict[str, list[ConfigMapSettings]] = defaultdict(list)
    for each in settings:
        found[each.name].append(each)
    return found


def _notes_of(standing: Standing) -> Iterator[Note]:
    if standing.failing:
        namespace, error = next(iter(standing.failing.items()))
        words = f"ConfigMap {standing.name} cannot be kept in {len(standing.failing)} of {standing.meant}"
        yield Note(f"{words} namespaces, such as {namespace}{_why(error)}", is_trouble=True)
    if standing.disputed:
        by = " and ".join(standing.rivals[:_MOST_NAMED]) or "somebody else"
        words = f"ConfigMap {standing.name} is written by {by} too, in {len(standing.disputed)} of {standing.meant}"
        where = f"namespaces, such as {standing.disputed[0]}, and is wrong there most of the time"
        yield Note(f"{words} {where}: {ending(standing.name)}", is_trouble=True)


def _why(error: CitadelError | None) -> str:
    return f" ({error.reason.value}: {error.message})" if error is not None else ""
