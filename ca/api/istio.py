"""`istio.v1.auth.IstioCertificateService`: what Istio's proxies ask of their certificate authority.

Their agent never tries again what is `UNAUTHENTICATED` or `INVALID_ARGUMENT`, and `UNAVAILABLE` a few times: who cannot
be checked now is never told to be nobody.
"""

from __future__ import annotations

from typing import Any, Final

from ca.api.refusals import ProvenCallers
from ca.kubernetes.istio.asked import Asked
from ca.kubernetes.istio.chain import Answers
from ca.kubernetes.istio.clusters import IstioClusters
from ca.kubernetes.istio.credentials import Credentials
from ca.kubernetes.istio.gathering import Gathering
from ca.kubernetes.room import Room
from citadel._wire import istio_ca_pb2 as pb
from citadel._wire import istio_ca_pb2_grpc
from citadel.errors import PermissionDenied, Unauthenticated
from citadel.tally import Tally

ISTIO_CA: Final = pb.DESCRIPTOR.services_by_name["IstioCertificateService"].full_name


class IstioCertificateService(istio_ca_pb2_grpc.IstioCertificateServiceServicer):
    """Signs for the identity that a service account's token proves, and for no other."""

    def __init__(
        self,
        *,
        clusters: IstioClusters,
        issuing: Gathering,
        answers: Answers,
        room: Room,
        proven: ProvenCallers,
        tally: Tally,
    ) -> None:
        self._clusters = clusters
        self._issuing = issuing
        self._answers = answers
        self._room = room
        self._proven = proven
        self._tally = tally

    async def CreateCertificate(self, request: pb.IstioCertificateRequest, context: Any) -> pb.IstioCertificateResponse:
        credentials = Credentials.of(context.invocation_metadata() or ())
        cluster = self._clusters.of(credentials.cluster)
        with self._room.one(cluster):
            account = await cluster.proven(credentials.token)
            self._proven.note(cluster.identity(account))  # from here on a refusal is audited as its own
            await cluster.check(account)
            wanted = await cluster.request(account, Asked.parse(request))
        try:
            svid = await self._issuing.issue(wanted)
        except PermissionDenied as refusal:  # its word for a caller that gets nothing
            raise Unauthenticated(refusal.reason, refusal.message, fix=refusal.fix) from refusal
        self._tally.count_issued()
        return pb.IstioCertificateResponse(cert_chain=self._answers.chain_of(svid))
