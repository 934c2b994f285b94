"""Answering PodCertificateRequests for the signer of this server, where the API server has such objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import SystemRandom
from typing import Final, Protocol

from cryptography import x509

from ca.authority.model import IssuingAuthority
from ca.issuance.press import IssuedSvid
from ca.kubernetes.discovery import WhileServed
from ca.kubernetes.following import Basis
from ca.kubernetes.note import Note
from ca.kubernetes.signers.answering import LATER, Answering, FollowedPods, Outcome, Standing
from ca.kubernetes.signers.pod_request import RESOURCE, PodRequest, rfc3339, waiting_pod_request
from ca.kubernetes.signers.pod_rules import check_issuer, decided, refresh_at, word_for
from ca.kubernetes.signers.pods_seen import pods_for
from ca.kubernetes.signers.refusing import Refusing
from ca.kubernetes.signers.signing import Signing, chain_pem
from ca.kubernetes.signers.terms import Terms
from citadel.clock import Clock
from citadel.errors import CitadelError, FailedPrecondition
from citadel.kubernetes.informer import Informer
from citadel.kubernetes.ports import KubernetesApi

_ISSUED: Final = "Issued by Citadel for the pod's service account."


class Issuers(Protocol):
    """Answers who signs."""

    def issuing(self) -> IssuingAuthority:
        """Raises `Unavailable` (`issuer_unavailable`)."""
        ...


class PodCertificates:
    """Gives each pod that asks by its kubelet a certificate for its service account."""

    def __init__(
        self,
        api: KubernetesApi,
        *,
        terms: Terms,
        issuers: Issuers,
        signing: Signing,
        pods: FollowedPods,
        refusing: Refusing,
        clock: Clock,
        draw: Callable[[], float] | None = None,
    ) -> None:
        self._api = api
        self._terms = terms
        self._issuers = issuers
        self._signing = signing
        self._pods = pods
        self._refusing = refusing
        self._clock = clock
        self._draw = draw or SystemRandom().random
        self._served = WhileServed(api, RESOURCE, clock=clock)
        self._at = ""
        self._answering: Answering[PodRequest] | None = None

    @property
    def standing(self) -> Standing:
        """How it is with them."""
        return self._answering.standing if self._answering is not None else Standing({}, {})

    def notes(self) -> Iterator[Note]:
        """What a person should know."""
        if self._served.is_absent:
            yield Note("no PodCertificateRequest is answered: this API server has no such objects")
        yield from self.standing.notes("PodCertificateRequest")

    @property
    def has_synced(self) -> bool:
        """Whether it is known what there is, be it that the API server has no such objects."""
        return self._served.is_absent or (self._answering is not None and self._answering.requests.has_synced)

    @property
    def trouble(self) -> CitadelError | None:
        """Why they cannot be followed just now."""
        if self._answering is None or self._served.is_absent:
            return self._served.trouble
        return self._answering.requests.trouble

    @property
    def basis(self) -> Basis:
        """What it rests on."""
        return Basis("its PodCertificateRequests", RESOURCE, self)

    async def run(self) -> None:
        """Answer, for ever."""
        await self._served.run(self._follow)

    async def _follow(self, at: str) -> None:
        self._at = at
        informer = Informer(
            self._api,
            f"{at}/{RESOURCE}",
            keep=lambda found: waiting_pod_request(found, self._terms.signer_name),
            fields=f"spec.signerName={self._terms.signer_name}",
            clock=self._clock,
        )
        answering = Answering(informer, self._answer, self._signing.forget, pods=self._pods, clock=self._clock)
        self._answering = answering
        await answering.run()

    async def _answer(self, request: PodRequest, waits: bool) -> Outcome:
        try:
            pods = await pods_for(request.pod, self._pods, waits=waits)
            wanted = decided(request, self._terms, pods, waits=waits)
        except LATER:
            raise
        except FailedPrecondition as refusal:
            return await self._refuse(request, refusal, Outcome.FAILED)
        except CitadelError as refusal:
            return await self._refuse(request, refusal, Outcome.DENIED)
        check_issuer(wanted, self._issuers.issuing().authority, self._clock.now())
        try:
            svid = await self._signing.svid(request.uid, wanted)
        except LATER:
            raise
        except CitadelError as refusal:
            return await self._refuse(request, refusal, Outcome.FAILED)
        await self._write(request, Outcome.ISSUED, "Issued", _ISSUED, self._dates(svid))
        self._refusing.count_issued()
        return Outcome.ISSUED

    async def _refuse(self, request: PodRequest, refusal: CitadelError, outcome: Outcome) -> Outcome:
        await self._write(request, outcome, word_for(refusal), str(refusal), {})
        self._refusing.tell(f"{request.key} for pod {request.pod.name}", refusal)
        return outcome

    async def _write(
        self, request: PodRequest, outcome: Outcome, reason: str, message: str, status: Mapping[str, str]
    ) -> None:
        path = f"{self._at}/namespaces/{request.namespace}/{RESOURCE}/{request.name}/status"
        body = request.with_answer(outcome.capitalize(), reason, message, self._clock.now(), **status)
        await self._api.replace(path, body)

    def _dates(self, svid: IssuedSvid) -> Mapping[str, str]:
        leaf = x509.load_der_x509_certificate(svid.chain_der[0])
        begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
        return {
            "certificateChain": chain_pem(svid),
            "notBefore": rfc3339(begin),
            "beginRefreshAt": rfc3339(refresh_at(begin, end, self._draw())),
            "notAfter": rfc3339(end),
        }
