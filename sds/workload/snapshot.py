"""What one caller is told over the Workload API, as whole messages (WAPI-07): rules without IO."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from citadel._wire import types_pb2
from citadel._wire import workload_pb2 as pb
from citadel.bundle import TrustBundle
from citadel.entry import Entry
from citadel.revocation import NO_REVOCATIONS, RevocationSet
from citadel.selector import Selector
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.wire import sequence_on_wire, to_timestamp
from sds.holdings import HeldSvid, Holdings
from sds.serve.matching import EntryIndex
from sds.serve.placeholder import discarded_root
from sds.serve.revocations import for_chains
from sds.workload.answer import Answer
from sds.workload.jwt_bundles import jwk_set, jwt_bundles

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a caller may have. The passing of time alone changes nothing before `until` (None: never).

    `svids` is None while the caller's first identity has no certificate: the first of a response is the default
    identity (WAPI-43), and a workload must not be another until its own certificate has come. `bundles` is None where
    not even a bundle is known, and so is `jwt_bundles`. `identities` are the entries, one for each identity, in the
    order of a response; `trusted` are the bundles whole.
    """

    is_entitled: bool
    svids: Answer[pb.X509SVIDResponse] | None = None
    bundles: Answer[pb.X509BundlesResponse] | None = None
    jwt_bundles: Answer[pb.JWTBundlesResponse] | None = None
    identities: Sequence[Entry] = ()
    trusted: Mapping[TrustDomain, TrustBundle] = field(default_factory=dict)
    until: datetime | None = None

    def holds_at(self, now: datetime) -> bool:
        """Whether this is still true, as far as time goes."""
        return self.until is None or now < self.until


NOTHING: Final = Snapshot(is_entitled=False)
# Many clients take messages of at most 4 MiB, and one that is refused leaves its reader without a certificate.
_MOST_LISTED: Final = 1024 * 1024
_MOST_FOREIGN: Final = 2 * 1024 * 1024  # of foreign bundles, beside those lists and what is the caller's own
_MOST_KEPT: Final = 1024  # kinds of callers; a node has a few dozen, and who likes makes more


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A bundle, its X.509 authorities as concatenated DER, and its JWT authorities as a JWK set."""

    bundle: TrustBundle
    der: bytes
    jwk_set: bytes


@dataclass(frozen=True, slots=True)
class _Trust:
    """What callers are told who trust the same domains: no message has it a second time."""

    trusted: Mapping[TrustDomain, TrustBundle]
    encoded: Mapping[TrustDomain, tuple[TrustBundle, bytes]]
    bundles: Answer[pb.X509BundlesResponse] | None
    jwt_bundles: Answer[pb.JWTBundlesResponse] | None


class SnapshotShelf:
    """Makes each snapshot once for all callers that look alike, and only again when the holdings changed.

    Pods never look alike, each with a name of its own, but what they may trust mostly is the same.
    """

    def __init__(
        self, *, trust_domain: TrustDomain, make_placeholder: Callable[[TrustDomain], bytes] = discarded_root
    ) -> None:
        self._own = trust_domain
        self._make_placeholder = make_placeholder
        self._nobody = b""
        self._holdings = Holdings()
        self._index = EntryIndex(())
        self._by_selectors: dict[frozenset[Selector], Snapshot] = {}
        self._by_domains: dict[tuple[TrustDomain, ...], _Trust] = {}
        self._encoded: dict[TrustDomain, _Encoded] = {}
        self._told: frozenset[TrustDomain] = frozenset()  # whose bundles are left out of some message
        self._lists: RevocationSet | None = None  # those that are sent, once it is known

    def wants_sha256(self, holdings: Holdings, selectors: frozenset[Selector]) -> bool:
        """Whether the digest of its executable could give anything more to a caller with these selectors."""
        self._turn_to(holdings)
        return self._index.wants_sha256(selectors)

    def snapshot(self, holdings: Holdings, selectors: frozenset[Selector], now: datetime) -> Snapshot:
        """What a caller with these selectors may have; `NOTHING` where no entry matches."""
        self._turn_to(holdings)
        known = self._by_selectors.get(selectors)
        if known is None or not known.holds_at(now):
            entries = self._index.matching(selectors, now)
            if not entries:  # not kept: anybody can come with selectors that nobody had before
                self._by_selectors.pop(selectors, None)
                return NOTHING
            if len(self._by_selectors) >= _MOST_KEPT:
                self._by_selectors.clear()
            known = self._by_selectors[selectors] = self._gather(entries, now)
        return known

    def _turn_to(self, holdings: Holdings) -> None:
        if holdings is self._holdings:
            return
        if holdings.entries is not self._holdings.entries:
            self._index = EntryIndex(holdings.entries.values())
        self._holdings, self._lists = holdings, None
        self._by_selectors, self._by_domains = {}, {}
        self._encoded = {domain: each for domain, each in self._encoded.items() if domain in holdings.bundles}
        self._told = self._told.intersection(holdings.bundles)

    def _gather(self, entries: Sequence[Entry], now: datetime) -> Snapshot:
        identities, trust, lists = self._identities(entries, now), self._trust(entries, now), self._usable_lists(now)
        ends = [entry.expires_at for entry in entries if entry.expires_at is not None]
        ends += [held.svid.not_after for held, _ in identities.values()]
        return Snapshot(
            is_entitled=True,
            svids=(
                self._svids(identities.values(), trust.encoded, trust.bundles, lists)
                if trust.bundles is not None and entries[0].spiffe_id in identities
                else None
            ),
            bundles=trust.bundles,
            jwt_bundles=trust.jwt_bundles,
            identities=_one_of_each(entries),
            trusted=trust.trusted,
            until=min(ends, default=None),
        )

    def _trust(self, entries: Iterable[Entry], now: datetime) -> _Trust:
        """Made once for all whose entries name the same domains."""
        trusted = self._trusted(entries)
        domains = tuple(trusted)
        if (known := self._by_domains.get(domains)) is None:
            if len(self._by_domains) >= _MOST_KEPT:
                self._by_domains.clear()
            encoded = self._bundles(trusted)
            known = self._by_domains[domains] = _Trust(
                trusted=trusted,
                encoded=encoded,
                bundles=_bundles_answer(encoded, self._usable_lists(now)) if encoded else None,
                jwt_bundles=jwt_bundles(
                    self._that_fit({domain: (each, self._encode(each).jwk_set) for domain, each in trusted.items()}),
                    own=self._own,
                ),
            )
        return known

    def _identities(self, entries: Iterable[Entry], now: datetime) -> Mapping[SpiffeId, tuple[HeldSvid, Entry]]:
        """One certificate for each identity, the caller's first identity first: `entries` come oldest first."""
        found: dict[SpiffeId, tuple[HeldSvid, Entry]] = {}
        for entry in entries:
            held = self._holdings.svids.get(entry.id)
            if held is not None and held.svid.not_after > now:
                found.setdefault(entry.spiffe_id, (held, entry))
        return found

    def _trusted(self, entries: Iterable[Entry]) -> Mapping[TrustDomain, TrustBundle]:
        """The bundles that are known of those that the caller may trust, its own first."""
        foreign = frozenset(domain for entry in entries for domain in entry.federates_with) - {self._own}
        known = (self._holdings.bundles.get(domain) for domain in (self._own, *sorted(foreign)))
        return {bundle.trust_domain: bundle for bundle in known if bundle is not None}

    def _bundles(self, trusted: Mapping[TrustDomain, TrustBundle]) -> Mapping[TrustDomain, tuple[TrustBundle, bytes]]:
        """Those with their authorities; none at all while the caller's own is unknown (WAPI-29).

        A foreign bundle without authorities is left out: for a peer, no bundle is no trust (WAPI-15).
        """
        if self._own not in trusted:
            return {}
        found = {domain: (bundle, self._encode(bundle).der) for domain, bundle in trusted.items()}
        return self._that_fit({domain: pair for domain, pair in found.items() if pair[1]})

    def _that_fit(
        self, found: Mapping[TrustDomain, tuple[TrustBundle, bytes]]
    ) -> Mapping[TrustDomain, tuple[TrustBundle, bytes]]:
        """Without the largest foreign bundles where all of them would be too much: no other domain pays for one."""
        foreign = sorted((len(content), domain) for domain, (_, content) in found.items() if domain != self._own)
        sums = accumulate(size for size, _ in foreign)
        left_out = {domain for (_, domain), total in zip(foreign, sums, strict=True) if total > _MOST_FOREIGN}
        for domain in left_out - self._told:
            _log.warning("foreign bundle left out of the Workload API", trust_domain=domain.name, why="it is too large")
        self._told |= left_out
        return {domain: pair for domain, pair in found.items() if domain not in left_out}

    def _encode(self, bundle: TrustBundle) -> _Encoded:
        """The authorities as messages have them. Of our own domain never empty, which would be no bundle (WAPI-17)."""
        known = self._encoded.get(bundle.trust_domain)
        if known is None or known.bundle is not bundle:
            der = b"".join(authority.public_bytes(Encoding.DER) for authority in bundle.x509_authorities)
            if not der and bundle.trust_domain == self._own:
                der = self._trust_nobody()
            known = self._encoded[bundle.trust_domain] = _Encoded(bundle, der, jwk_set(bundle))
        return known

    def _trust_nobody(self) -> bytes:
        if not self._nobody:  # kept, so that the same nothing is pushed only once
            root = x509.load_pem_x509_certificate(self._make_placeholder(self._own))
            self._nobody = root.public_bytes(Encoding.DER)
        return self._nobody

    def _usable_lists(self, now: datetime) -> RevocationSet:
        """The lists of our own domain, for callers that check whole chains; none where one is missing, or too much."""
        if self._lists is None:
            lists = for_chains(self._holdings, self._own, now)
            is_large = sum(len(each.der) for each in lists.lists) > _MOST_LISTED
            self._lists = NO_REVOCATIONS if is_large else lists
        return self._lists

    def _svids(
        self,
        identities: Iterable[tuple[HeldSvid, Entry]],
        bundles: Mapping[TrustDomain, tuple[TrustBundle, bytes]],
        answer: Answer[pb.X509BundlesResponse],
        lists: RevocationSet,
    ) -> Answer[pb.X509SVIDResponse]:
        message, about = pb.X509SVIDResponse(crl=(each.der for each in lists.lists)), []
        hints = {""}
        for held, entry in identities:
            message.svids.add(
                spiffe_id=str(held.svid.spiffe_id),
                x509_svid=b"".join(held.svid.chain_der),
                x509_svid_key=held.private_key,
                bundle=bundles[self._own][1],
                hint="" if entry.hint in hints else entry.hint,  # unique in a response: the first keeps it (WAPI-23)
            )
            hints.add(entry.hint)
            about.append(_about_svid(held))
        for domain, (_, der) in bundles.items():
            if domain != self._own:
                message.federated_bundles[str(domain.id)] = der
        return Answer(message, (*about, *answer.about))


def _one_of_each(entries: Iterable[Entry]) -> Sequence[Entry]:
    """The first entry of each identity: `entries` come oldest first."""
    found: dict[SpiffeId, Entry] = {}
    for entry in entries:
        found.setdefault(entry.spiffe_id, entry)
    return tuple(found.values())


def _bundles_answer(
    bundles: Mapping[TrustDomain, tuple[TrustBundle, bytes]], lists: RevocationSet
) -> Answer[pb.X509BundlesResponse]:
    message = pb.X509BundlesResponse(
        crl=(each.der for each in lists.lists),
        bundles={str(domain.id): der for domain, (_, der) in bundles.items()},
    )
    return Answer(message, _about_bundles(bundles, lists))


def _about_svid(held: HeldSvid) -> types_pb2.ResourceReport:
    spiffe_id = str(held.svid.spiffe_id)
    report = types_pb2.ResourceReport(
        name=spiffe_id,
        spiffe_id=spiffe_id,
        serial=held.svid.serial,
        version=held.svid.serial,
        issuer_key_id=held.issuer_key_id,
    )
    report.not_after.CopyFrom(to_timestamp(held.svid.not_after))
    return report


def _about_bundles(
    bundles: Mapping[TrustDomain, tuple[TrustBundle, bytes]], lists: RevocationSet
) -> Sequence[types_pb2.ResourceReport]:
    """What is reported of bundles, the own one, which the lists belong to, first."""
    return tuple(
        types_pb2.ResourceReport(
            name=str(domain.id),
            version=bundle.x509_digest()[:16],
            trust_domain=domain.name,
            bundle_sequence=sequence_on_wire(bundle),
            revocation_version=lists.version if number == 0 else "",
        )
        for number, (domain, (bundle, _)) in enumerate(bundles.items())
    )
