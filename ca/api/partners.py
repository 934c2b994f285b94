"""Which foreign bundles one agent is told: those of the trust domains that its entries federate with, and no others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from citadel._wire import types_pb2
from citadel.entry import Entry
from citadel.spiffe import TrustDomain


class Foreign(Protocol):
    """The foreign bundles as they are pushed. `version` is another one whenever one of them is."""

    @property
    def version(self) -> int:
        """What tells at once that nothing has changed."""
        ...

    def of(self, trust_domain: TrustDomain) -> types_pb2.Bundle | None:
        """The same object for as long as it says the same; None where no bundle is known."""
        ...


class Nobody:
    """No foreign bundle is known."""

    version: Final = 0

    def of(self, _: TrustDomain) -> None:
        """None of any."""


@dataclass(frozen=True, slots=True)
class BundleNews:
    """Bundles that are new to the agent, and trust domains whose bundle it is to forget."""

    fresh: Sequence[types_pb2.Bundle] = ()
    dropped: Sequence[str] = ()


_NO_NEWS: Final = BundleNews()


class Partners:
    """Counts, for each foreign trust domain, the entries that federate with it as they are told and taken back.

    So a change costs what it concerns: an entry that federates with nobody costs nothing here.
    """

    __slots__ = ("_domains", "_entries", "_seen", "_told")

    def __init__(self) -> None:
        self._entries: dict[str, frozenset[TrustDomain]] = {}  # with whom they federate; only those that do
        self._domains: Counter[TrustDomain] = Counter()
        self._told: dict[TrustDomain, types_pb2.Bundle] = {}
        self._seen: int | None = None  # the version that the agent was told all of; None where it must be looked at

    def __contains__(self, trust_domain: TrustDomain) -> bool:
        return trust_domain in self._domains

    def follow(self, changed: Iterable[Entry], removed: Iterable[str]) -> None:
        """These entries are new to the agent or other than before; those are gone, by their ids."""
        for entry in changed:
            if entry.federates_with or entry.id in self._entries:
                self._put(entry.id, entry.federates_with)
        for entry_id in removed:
            if entry_id in self._entries:
                self._put(entry_id, frozenset())

    def news(self, foreign: Foreign) -> BundleNews:
        """What the agent has not been told yet; it is taken as told from now on."""
        if self._seen == foreign.version:
            return _NO_NEWS
        self._seen = foreign.version
        now = {domain: bundle for domain in self._domains if (bundle := foreign.of(domain)) is not None}
        fresh = [bundle for domain, bundle in now.items() if self._told.get(domain) is not bundle]
        dropped = sorted(domain.name for domain in self._told if domain not in now)
        self._told = now
        return BundleNews(fresh, dropped)

    def _put(self, entry_id: str, domains: frozenset[TrustDomain]) -> None:
        before, self._seen = self._entries.pop(entry_id, frozenset()), None
        if domains:
            self._entries[entry_id] = domains
        self._domains.update(domains)
        for domain in before:
            self._domains[domain] -= 1
            if not self._domains[domain]:
                del self._domains[domain]
