"""Which secrets a caller may have, under which names.

`default` is the caller's first identity, `ROOTCA` the bundle of its own trust domain, `ALL` that and the bundles of the
domains that its entries federate with, or whatever the settings call these; further each exact SPIFFE ID and each
`spiffe://<trust domain>`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from operator import is_
from typing import Final

from citadel.bundle import TrustBundle
from citadel.entry import Entry
from citadel.errors import CitadelError
from citadel.revocation import NO_REVOCATIONS, RevocationSet, to_pem
from citadel.selector import Selector
from citadel.spiffe import SCHEME, SpiffeId, TrustDomain
from citadel.wire import sequence_on_wire
from sds.holdings import HeldSvid, Holdings
from sds.serve.available import Available
from sds.serve.matching import EntryIndex
from sds.serve.placeholder import discarded_root
from sds.serve.resource import (
    BundleFacts,
    Resource,
    certificate_resource,
    plain_context_resource,
    spiffe_context_resource,
)
from sds.serve.revocations import UsableLists
from sds.settings import SecretNameSettings

_POD: Final = "k8s:"  # how the origin of an entry begins that is there because of a pod
_DEFAULT_NAMES: Final = SecretNameSettings()

_MOST_KEPT: Final = 1024  # kinds of callers; a node has a few dozen, and who likes makes more


class SecretShelf:
    """Builds each secret once, however many streams send it, and only again when what it is made of was replaced."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        names: SecretNameSettings = _DEFAULT_NAMES,
        make_placeholder: Callable[[TrustDomain], bytes] = discarded_root,
    ) -> None:
        self._own = trust_domain
        self._names = names
        self._make_placeholder = make_placeholder
        self._placeholders: dict[TrustDomain, bytes] = {}
        self._holdings = Holdings()
        self._names_its_domain = True
        self._index = EntryIndex(())
        self._by_selectors: dict[frozenset[Selector], Available] = {}
        self._before: dict[frozenset[Selector], Available] = {}
        self._built = _Memo()
        self._usable = UsableLists(trust_domain)

    def wants_sha256(self, holdings: Holdings, selectors: frozenset[Selector]) -> bool:
        """Whether the digest of its executable could give anything more to a caller with these selectors."""
        self._turn_to(holdings)
        return self._index.wants_sha256(selectors)

    def available(self, holdings: Holdings, selectors: frozenset[Selector], now: datetime) -> Available:
        """The secrets of a caller with these selectors. One that no entry matches gets nothing, not even a bundle.

        The very same object for as long as nothing in it changes, so that a thousand streams need not compare.
        """
        self._turn_to(holdings)
        known = self._by_selectors.get(selectors)
        if known is None or not known.holds_at(now):
            before, known = self._before.get(selectors), self._gather(selectors, now)
            if not known.resources and not known.awaited:  # not kept: anybody can come with selectors of its own
                self._by_selectors.pop(selectors, None)
                return known
            self._make_room()
            self._by_selectors[selectors] = known = before if before == known else known
        return known

    def gateway(self, holdings: Holdings, selectors: frozenset[Selector], now: datetime) -> Entry | None:
        """The first entry of such a caller that the server made for a pod; credentials of gateways go by it."""
        self._turn_to(holdings)
        return next((each for each in self._index.matching(selectors, now) if each.origin.startswith(_POD)), None)

    def _make_room(self) -> None:
        if len(self._by_selectors) >= _MOST_KEPT:
            self._by_selectors, self._before = {}, self._by_selectors

    def _turn_to(self, holdings: Holdings) -> None:
        if holdings is self._holdings:
            return
        if holdings.entries is not self._holdings.entries:
            self._index = EntryIndex(holdings.entries.values())
        own = holdings.bundles.get(self._own)
        if own is not self._holdings.bundles.get(self._own):
            self._names_its_domain = own is None or own.names_its_domain()
        self._holdings = holdings
        self._by_selectors, self._before = {}, self._by_selectors
        self._built.turn()

    def _gather(self, selectors: frozenset[Selector], now: datetime) -> Available:
        entries = self._index.matching(selectors, now)
        if not entries:
            return Available({}, is_known=self._holdings.is_told)
        identities = self._identities(entries, now)
        foreign = frozenset(domain for entry in entries for domain in entry.federates_with) - {self._own}
        resources = [*self._certificates(entries[0].spiffe_id, identities), *self._contexts(foreign, now)]
        ends = [entry.expires_at for entry in entries if entry.expires_at is not None]
        ends += [held.svid.not_after for held in identities.values()]
        there = {resource.name: resource for resource in resources}
        ids = [*(entry.spiffe_id for entry in entries), *(domain.id for domain in (self._own, *foreign))]
        may_have = frozenset((self._names.default, self._names.root, self._names.all, *map(str, ids)))
        return Available(
            there, until=min(ends, default=None), awaited=may_have - there.keys(), withdrawal=self._withdrawal
        )

    def _identities(self, entries: Iterable[Entry], now: datetime) -> Mapping[SpiffeId, HeldSvid]:
        found: dict[SpiffeId, HeldSvid] = {}
        for entry in entries:
            held = self._holdings.svids.get(entry.id)
            # Envoy acknowledges an expired leaf and then serves it (invariant 9).
            if held is not None and held.svid.not_after > now:
                found.setdefault(held.svid.spiffe_id, held)
        return found

    def _certificates(self, first: SpiffeId, identities: Mapping[SpiffeId, HeldSvid]) -> Iterator[Resource]:
        named = {str(spiffe_id): held for spiffe_id, held in identities.items()}
        # `default` waits for the first identity rather than be another until that one's certificate has come: a
        # workload that changes identity is refused by every peer that pins it.
        if first in identities:
            named[self._names.default] = identities[first]
        for name, held in named.items():
            yield self._built.get((name, held.entry_id), (held,), partial(certificate_resource, name, held))

    def _contexts(self, foreign: frozenset[TrustDomain], now: datetime) -> Iterator[Resource]:
        # A root that names no trust domain may be over others: a plain `trusted_ca` would let in their workloads, whom
        # nobody here federates with (invariant 7).
        is_plain = not foreign and self._names_its_domain
        lists = self._usable.lists(self._holdings, now, of_leaves_alone=is_plain)
        bundles = [self._holdings.bundles.get(domain) for domain in (self._own, *sorted(foreign))]
        held = [bundle for bundle in bundles if bundle is not None]
        for bundle in held:
            yield self._context(str(bundle.trust_domain.id), [bundle], lists, is_plain=is_plain)
        # A proxy that waits for one name does not go live, and then serves nobody.
        for domain in foreign.difference(self._holdings.bundles):
            yield self._nothing_of(domain)
        if held and held[0].trust_domain == self._own:
            yield self._context(self._names.root, held[:1], lists, is_plain=is_plain)
            yield self._context(self._names.all, held, lists, is_plain=is_plain)

    def _context(self, name: str, bundles: Sequence[TrustBundle], lists: RevocationSet, *, is_plain: bool) -> Resource:
        domains = tuple(bundle.trust_domain for bundle in bundles)
        if domains[0] != self._own:
            lists = NO_REVOCATIONS
        build = partial(self._build_context, name, bundles, lists, is_plain=is_plain)
        return self._built.get((name, is_plain, *domains), (*bundles, lists), build)

    def _build_context(
        self, name: str, bundles: Sequence[TrustBundle], lists: RevocationSet, *, is_plain: bool
    ) -> Resource:
        authorities = {bundle.trust_domain: self._authorities(bundle) for bundle in bundles}
        first = bundles[0]
        facts = BundleFacts(first.trust_domain.name, sequence_on_wire(first), lists.version)
        if is_plain:
            of_issuers = to_pem(lists.of_leaf_issuers())
            return plain_context_resource(name, authorities[first.trust_domain], facts, lists=of_issuers)
        authorities[first.trust_domain] += to_pem(lists.lists)
        return spiffe_context_resource(name, authorities, facts)

    def _authorities(self, bundle: TrustBundle) -> bytes:
        return bundle.to_pem() if bundle.x509_authorities else self._placeholder(bundle.trust_domain)

    def _placeholder(self, trust_domain: TrustDomain) -> bytes:
        if trust_domain not in self._placeholders:  # kept, so that the same nothing is pushed only once
            self._placeholders[trust_domain] = self._make_placeholder(trust_domain)
        return self._placeholders[trust_domain]

    def _withdrawal(self, name: str, /, *, may_come: bool) -> Resource | None:
        """See `sds.serve.available.Withdrawal`."""
        domain = name.removeprefix(SCHEME)
        if domain in (name, self._own.name) or "/" in domain:
            return None
        try:
            trust_domain = TrustDomain(domain)
        except CitadelError:
            return None
        return None if may_come and trust_domain in self._holdings.bundles else self._nothing_of(trust_domain)

    def _nothing_of(self, trust_domain: TrustDomain) -> Resource:
        # One root for all of them, and nothing is kept by name: a caller says which names it has.
        authorities = {trust_domain: self._placeholder(self._own)}
        return spiffe_context_resource(str(trust_domain.id), authorities, BundleFacts(trust_domain.name, 0))


class _Memo:
    """What was built, for as long as it was built from these very objects and somebody still asks for it."""

    def __init__(self) -> None:
        self._now: dict[object, tuple[tuple[object, ...], Resource]] = {}
        self._before: dict[object, tuple[tuple[object, ...], Resource]] = {}

    def turn(self) -> None:
        """Begin a new generation: what is not asked for in this one is forgotten with the next."""
        self._before, self._now = self._now, {}

    def get(self, key: object, parts: tuple[object, ...], build: Callable[[], Resource]) -> Resource:
        """The resource under `key` if it was made of `parts`, otherwise what `build` makes."""
        known = self._now.get(key) or self._before.get(key)
        if known is None or not all(map(is_, known[0], parts)):
            known = (parts, build())
        self._now[key] = known
        return known[1]
