"""What an agent shows to be let in: a token, that of its pod, a certificate of its machine, or its recorded key."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from grpc import aio

from citadel._wire import bootstrap_pb2 as pb
from citadel._wire import bootstrap_pb2_grpc
from citadel.call import answer_of
from citadel.errors import CitadelError, Reason
from citadel.possession import Challenge, Purpose
from citadel.rpc import from_rpc_error
from citadel.spiffe import SpiffeId, TrustDomain
from sds.keep.keys import PrivateKey

TIMEOUT: Final = 10.0  # seconds, for each step of joining


class Credential(Protocol):
    """Asks a server, which has proven itself already, for an SVID."""

    async def present(
        self, server: bootstrap_pb2_grpc.BootstrapAsyncStub, csr: bytes, *, trust_domain: TrustDomain
    ) -> pb.JoinResponse:
        """The server's answer to `csr` (DER). Raises what it refused, or `Unavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class Token:
    """The token of a join string."""

    secret: str = field(repr=False)

    async def present(
        self, server: bootstrap_pb2_grpc.BootstrapAsyncStub, csr: bytes, *, trust_domain: TrustDomain
    ) -> pb.JoinResponse:
        del trust_domain  # a token belongs to one server
        return await answer_of(server.Join(pb.JoinRequest(token=self.secret, csr=csr), timeout=TIMEOUT))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectedToken:
    """The token of this agent's service account, as kubelet wrote it last, and the cluster that vouches for it."""

    cluster: str
    secret: str = field(repr=False)

    async def present(
        self, server: bootstrap_pb2_grpc.BootstrapAsyncStub, csr: bytes, *, trust_domain: TrustDomain
    ) -> pb.JoinResponse:
        del trust_domain  # its audience says whom it is for
        request = pb.JoinKubernetesRequest(cluster=self.cluster, token=self.secret, csr=csr)
        return await answer_of(server.JoinKubernetes(request, timeout=TIMEOUT))


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCertificate:
    """A certificate under an authority that the server trusts for joining, with its key; leaf first."""

    chain: Sequence[x509.Certificate]
    key: PrivateKey = field(repr=False)

    async def present(
        self, server: bootstrap_pb2_grpc.BootstrapAsyncStub, csr: bytes, *, trust_domain: TrustDomain
    ) -> pb.JoinResponse:
        chain = [certificate.public_bytes(Encoding.DER) for certificate in self.chain]
        claim = pb.ProveRequest(certificate=pb.CertificateClaim(chain=chain, csr=csr))
        proof = _Proof(
            purpose=Purpose.X509POP,
            trust_domain=trust_domain,
            claimant=self.chain[0].fingerprint(hashes.SHA256()).hex(),
            csr=csr,
            key=self.key,
        )
        return await _proven(server, claim, proof)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedKey:
    """The key of an agent that has joined before."""

    spiffe_id: SpiffeId
    key: PrivateKey = field(repr=False)

    async def present(
        self, server: bootstrap_pb2_grpc.BootstrapAsyncStub, csr: bytes, *, trust_domain: TrustDomain
    ) -> pb.JoinResponse:
        public_key = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        claim = pb.ProveRequest(
            recorded_key=pb.RecordedKeyClaim(spiffe_id=str(self.spiffe_id), public_key=public_key, csr=csr)
        )
        proof = _Proof(
            purpose=Purpose.REJOIN,
            trust_domain=trust_domain,
            claimant=str(self.spiffe_id),
            csr=csr,
            key=self.key,
        )
        return await _proven(server, claim, proof)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proof:
    """All of a proof but the server's nonce."""

    purpose: Purpose
    trust_domain: TrustDomain
    claimant: str
    csr: bytes
    key: PrivateKey = field(repr=False)

    def of(self, nonce: bytes) -> bytes:
        return Challenge(
            purpose=self.purpose,
            trust_domain=self.trust_domain,
            claimant=self.claimant,
            csr=self.csr,
            nonce=nonce,
        ).signed_by(self.key)


async def _proven(
    server: bootstrap_pb2_grpc.BootstrapAsyncStub, claim: pb.ProveRequest, proof: _Proof
) -> pb.JoinResponse:
    call = server.Prove(timeout=TIMEOUT)
    try:
        await call.write(claim)
        challenge = await _answer(call, "nonce")
        signature = await asyncio.to_thread(proof.of, challenge.nonce)
        await call.write(pb.ProveRequest(signature=signature))
        return (await _answer(call, "joined")).joined
    except asyncio.InvalidStateError:  # grpc.aio's word for writing to a call that the server has ended
        raise await _why_it_ended(call) from None
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
    finally:
        call.cancel()


async def _answer(call: aio.StreamStreamCall[pb.ProveRequest, pb.ProveResponse], kind: str) -> pb.ProveResponse:
    answer = await call.read()
    if not isinstance(answer, pb.ProveResponse):  # the end of the stream
        raise await _why_it_ended(call)
    if answer.WhichOneof("kind") != kind:
        raise CitadelError(Reason.REQUEST_MALFORMED, f"the server did not answer with a {kind} in its turn")
    return answer


async def _why_it_ended(call: aio.StreamStreamCall[pb.ProveRequest, pb.ProveResponse]) -> CitadelError:
    try:
        await call.wait_for_connection()
    except grpc.RpcError as error:
        return from_rpc_error(error)
    return CitadelError(Reason.REQUEST_MALFORMED, "the server ended the stream before its turn was over")
