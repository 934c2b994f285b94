"""Which foreign bundles one agent is told: those of the trust domains that its entries federate with, and no others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from citadel._wire import types_pb2
from citadel.entry import Entry
from citadel.spiffe import TrustDomain

# The bundle of a foreign trust domain as it is pushed, the same object for as long as it says the same; None where none
# is known.
Foreign = Callable[[TrustDomain], types_pb2.Bundle | None]


def nobody(_: TrustDomain) -> None:
    """No foreign bundle is known."""


@dataclass(frozen=True, slots=True)
class BundleNews:
    """Bundles that are new to the agent, and trust domains whose bundle it is to forget."""

    fresh: Sequence[types_pb2.Bundle]
    dropped: Sequence[str]


class Partners:
    """Counts, for each foreign trust domain, the entries that federate with it as they are told and taken back.

    So a change costs what it concerns: an entry that federates with nobody costs nothing here.
    """

    __slots__ = ("_domains", "_entries", "_told")

    def __init__(self) -> None:
        self._entries: dict[str, frozenset[TrustDomain]] = {}  # with whom they federate; only those that do
        self._domains: Counter[TrustDomain] = Counter()
        self._told: dict[TrustDomain, types_pb2.Bundle] = {}

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
        now = {domain: bundle for domain in self._domains if (bundle := foreign(domain)) is not None}
        fresh = [bundle for domain, bundle in now.items() if self._told.get(domain) is not bundle]
        dropped = sorted(domain.name for domain in self._told if domain not in now)
        self._told = now
        return BundleNews(fresh, dropped)

    def _put(self, entry_id: str, domains: frozenset[TrustDomain]) -> None:
        before = self._entries.pop(entry_id, frozenset())
        if domains:
            self._entries[entry_id] = domains
        self._domains.update(domains)
        for domain in before:
            self._domains[domain] -= 1
            if not self._domains[domain]:
                del self._domains[domain]
