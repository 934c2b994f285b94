"""Answering CertificateSigningRequests for the signer of this server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ca.kubernetes.following import Basis
from ca.kubernetes.note import Note
from ca.kubernetes.permissions import REQUESTS
from ca.kubernetes.signers.answering import LATER, Answering, FollowedPods, Outcome, Standing
from ca.kubernetes.signers.certificate_request import PATH, CertificateRequest, waiting_request
from ca.kubernetes.signers.certificate_rules import claim_of, decided
from ca.kubernetes.signers.pods_seen import pods_for
from ca.kubernetes.signers.refusing import Refusing
from ca.kubernetes.signers.signing import Signing, chain_pem
from ca.kubernetes.signers.terms import Terms
from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.kubernetes.informer import Informer
from citadel.kubernetes.ports import KubeObject, KubernetesApi

_APPROVED: Final = "Made by a service account for itself, in a namespace that is admitted."


class CertificateRequests:
    """Approves those that the rules allow, where it `approves` at all, and signs those that are approved."""

    def __init__(
        self,
        api: KubernetesApi,
        *,
        terms: Terms,
        approves: bool,
        signing: Signing,
        pods: FollowedPods,
        refusing: Refusing,
        clock: Clock,
    ) -> None:
        self._api = api
        self._terms = terms
        self._approves = approves
        self._signing = signing
        self._pods = pods
        self._refusing = refusing
        informer = Informer(api, PATH, keep=self._read, fields=f"spec.signerName={terms.signer_name}", clock=clock)
        self._answering = Answering(informer, self._answer, signing.forget, pods=pods, clock=clock)

    async def run(self) -> None:
        """Answer, for ever."""
        await self._answering.run()

    @property
    def basis(self) -> Basis:
        """What it rests on."""
        return Basis("its CertificateSigningRequests", REQUESTS, self._answering.requests)

    @property
    def standing(self) -> Standing:
        """How it is with them."""
        return self._answering.standing

    def notes(self) -> Iterator[Note]:
        """What a person should know."""
        return self.standing.notes("CertificateSigningRequest")

    async def _answer(self, request: CertificateRequest, waits: bool) -> Outcome | None:
        if not (request.is_approved or self._approves):
            return None
        try:
            pods = await pods_for(claim_of(request), self._pods, waits=waits)
            wanted = decided(request, self._terms, pods, waits=waits)
        except LATER:
            raise
        except CitadelError as refusal:
            return await self._refuse(request, refusal)
        if not request.is_approved:
            request = await self._approve(request)
        try:
            svid = await self._signing.svid(request.uid, wanted)
        except LATER:
            raise
        except CitadelError as refusal:
            return await self._refuse(request, refusal)
        await self._api.replace(f"{PATH}/{request.name}/status", request.with_certificate(chain_pem(svid)))
        self._refusing.count_issued()
        return Outcome.ISSUED

    async def _approve(self, request: CertificateRequest) -> CertificateRequest:
        body = request.with_condition("Approved", "ServiceAccount", _APPROVED)
        approved = self._read(await self._api.replace(f"{PATH}/{request.name}/approval", body))
        return request if approved is None else approved

    async def _refuse(self, request: CertificateRequest, refusal: CitadelError) -> Outcome:
        """What others have approved cannot be denied any more; it fails."""
        kind, part = ("Failed", "status") if request.is_approved else ("Denied", "approval")
        body = request.with_condition(kind, refusal.reason.value, str(refusal))
        await self._api.replace(f"{PATH}/{request.name}/{part}", body)
        self._refusing.tell(f"{request.name} by {request.username}", refusal)
        return Outcome.FAILED if request.is_approved else Outcome.DENIED

    def _read(self, found: KubeObject) -> CertificateRequest | None:
        return waiting_request(found, self._terms.signer_name)
