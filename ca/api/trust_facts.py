"""`citadel.v1.TrustFacts`: what has to be known of this cluster to say why another one does or does not trust it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.api.answers import bundle_message
from ca.authority.manager import AuthorityManager
from ca.authority.model import Authority, AuthorityState
from ca.entries.directory import EntryDirectory
from ca.revocation.lists import RevocationLists
from citadel._wire import trust_pb2 as pb
from citadel._wire import trust_pb2_grpc
from citadel.bundle import TrustBundle
from citadel.certification_path import extension_of
from citadel.clock import Clock
from citadel.errors import Unavailable
from citadel.revocation import RevocationSet
from citadel.spiffe import TrustDomain
from citadel.wire import to_duration, to_timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the settings say of it. `endpoint_profile` is empty where the own bundle is not served."""

    upstream: str
    backdate: timedelta
    leaf_lifetime: timedelta
    endpoint_profile: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreigner:
    """What is known of another trust domain; `endpoint_url` is empty where its bundle is not fetched."""

    trust_domain: TrustDomain
    bundle: TrustBundle | None
    is_set: bool = False
    endpoint_url: str = ""
    endpoint_profile: str = ""
    failures: int = 0
    last_reason: str = ""
    last_error: str = ""


class Foreigners(Protocol):
    """Who knows of other trust domains."""

    def __call__(self) -> Sequence[Foreigner]:
        """All that have a bundle or an endpoint."""
        ...


class TrustFactsService(trust_pb2_grpc.TrustFactsServicer):
    """Reads, and answers with what is public alone."""

    def __init__(
        self,
        *,
        authorities: AuthorityManager,
        directory: EntryDirectory,
        lists: RevocationLists,
        foreigners: Foreigners,
        terms: Terms,
        clock: Clock,
    ) -> None:
        self._authorities = authorities
        self._directory = directory
        self._lists = lists
        self._foreigners = foreigners
        self._terms = terms
        self._clock = clock

    async def GetTrustFacts(self, request: pb.GetTrustFactsRequest, context: Any) -> pb.ClusterFacts:
        bundle = self._authorities.bundle()
        facts = pb.ClusterFacts(
            trust_domain=bundle.trust_domain.name,
            now=to_timestamp(self._clock.now()),
            upstream=self._terms.upstream,
            bundle=bundle_message(bundle),
            backdate=to_duration(self._terms.backdate),
            leaf_lifetime=to_duration(self._terms.leaf_lifetime),
            endpoint_profile=self._terms.endpoint_profile,
            foreign=self._foreign(),
        )
        try:
            issuing = self._authorities.issuing().authority
        except Unavailable:
            return facts
        facts.issuing.extend(each.public_bytes(Encoding.DER) for each in (issuing.certificate, *issuing.chain))
        facts.issuing_trouble = trouble_of(issuing, self._authorities.authorities(), self._lists.current)
        return facts

    def _foreign(self) -> list[pb.ForeignFacts]:
        now = self._clock.now()
        known = {each.trust_domain: each for each in self._foreigners()}
        federating = Counter(
            domain
            for entry in self._directory.all().values()
            if entry.expires_at is None or entry.expires_at > now
            for domain in entry.federates_with
        )
        domains = sorted({*known, *federating})
        return [
            _facts(known.get(each) or Foreigner(trust_domain=each, bundle=None), federating[each]) for each in domains
        ]


def trouble_of(issuing: Authority, authorities: Iterable[Authority], revoked: RevocationSet) -> str:
    """Why the authority that signs now should not be relied on; empty where it should."""
    tainted = {each.id for each in authorities if each.state is AuthorityState.TAINTED}
    if tainted & {issuing.id, issuing.parent_id}:
        return "it is tainted, or its root is: proxies drop it soon"
    above = extension_of(issuing.certificate, x509.AuthorityKeyIdentifier)
    signer = above.key_identifier if above is not None else None
    if signer is not None and revoked.hold(signer, issuing.certificate.serial_number):
        return "it is revoked"
    return ""


def _facts(foreigner: Foreigner, entries: int) -> pb.ForeignFacts:
    return pb.ForeignFacts(
        trust_domain=foreigner.trust_domain.name,
        bundle=bundle_message(foreigner.bundle) if foreigner.bundle is not None else None,
        is_set=foreigner.is_set,
        entries=entries,
        endpoint_url=foreigner.endpoint_url,
        endpoint_profile=foreigner.endpoint_profile,
        failures=foreigner.failures,
        last_reason=foreigner.last_reason,
        last_error=foreigner.last_error,
    )
