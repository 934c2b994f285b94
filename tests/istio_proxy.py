"""An Istio proxy's agent as the certificate authority sees it: its call, and what it makes of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf import struct_pb2
from grpc import aio

from citadel._wire import istio_ca_pb2 as pb
from citadel._wire import istio_ca_pb2_grpc
from tests.csrs import csr, new_key


@dataclass(frozen=True)
class Secrets:
    """What pilot-agent keeps: all texts together as the chain, and the last one of them as the roots."""

    key: ec.EllipticCurvePrivateKey
    chain_pem: str
    roots_pem: str

    @property
    def chain(self) -> Sequence[x509.Certificate]:
        return x509.load_pem_x509_certificates(self.chain_pem.encode())

    @property
    def roots(self) -> Sequence[x509.Certificate]:
        return x509.load_pem_x509_certificates(self.roots_pem.encode())

    @property
    def identity(self) -> str:
        names = self.chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName)
        assert names.critical
        (identity,) = names.value.get_values_for_type(x509.UniformResourceIdentifier)
        return identity


def pem_of(der: bytes) -> str:
    return x509.load_der_x509_csr(der).public_bytes(Encoding.PEM).decode()


async def create_certificate(
    channel: aio.Channel,
    token: str | None,
    *,
    cluster: str = "",
    seconds: int = 0,
    request: str | None = None,
    impersonated: str = "",
) -> Secrets:
    """One call of CreateCertificate; `request` stands for a good one in PEM."""
    key = new_key()
    asked = pb.IstioCertificateRequest(csr=pem_of(csr(key)) if request is None else request, validity_duration=seconds)
    if impersonated:
        asked.metadata.CopyFrom(struct_pb2.Struct())
        asked.metadata.update({"ImpersonatedIdentity": impersonated})
    metadata = [("authorization", f"Bearer {token}")] if token is not None else []
    if cluster:
        metadata.append(("clusterid", cluster))
    stub = istio_ca_pb2_grpc.IstioCertificateServiceStub(channel)
    answer = await stub.CreateCertificate(asked, metadata=metadata)
    if len(answer.cert_chain) <= 1:  # the agent refuses such an answer
        raise AssertionError("cert_chain has no more than one element")
    together = "".join(text if text.endswith("\n") else text + "\n" for text in answer.cert_chain)
    return Secrets(key, together, answer.cert_chain[-1])
