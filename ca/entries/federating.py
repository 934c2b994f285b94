"""The entries that federate, by the foreign trust domain: entries that federate with nobody cost nothing here."""

from __future__ import annotations

from collections.abc import Mapping

from citadel.entry import Entry
from citadel.spiffe import TrustDomain


class FederatingEntries:
    """An index over the entries of a directory."""

    def __init__(self) -> None:
        self._by_domain: dict[TrustDomain, dict[str, Entry]] = {}

    def put(self, entry: Entry) -> None:
        """Add an entry, also beside one of its id that is taken out later."""
        for domain in entry.federates_with:
            self._by_domain.setdefault(domain, {})[entry.id] = entry

    def take_out(self, entry: Entry) -> None:
        """Forget this very entry; one of its id that came since stays."""
        for domain in entry.federates_with:
            found = self._by_domain[domain]
            if found.get(entry.id) is entry:
                del found[entry.id]
            if not found:
                del self._by_domain[domain]

    def of(self, trust_domain: TrustDomain) -> Mapping[str, Entry]:
        """Those that federate with this trust domain, by id."""
        return self._by_domain.get(trust_domain, {})
