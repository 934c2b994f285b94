"""The server of a child cluster, played by hand over the real wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from grpc import aio

from ca.authority.certificates import authority_key_identifier
from ca.revocation.crl import build_crl
from ca.revocation.model import RevokedCertificate
from citadel._wire import clusters_pb2 as pb
from citadel._wire import clusters_pb2_grpc, types_pb2
from citadel.bundle import TrustBundle
from citadel.jwk import JwtKey
from citadel.spiffe import TrustDomain
from citadel.wire import to_duration
from tests.csrs import csr, new_key
from tests.servers import Member, Server, sign

A_TEST = TrustDomain("a.test")


def child_csr(
    key: ec.EllipticCurvePrivateKey, *, uris: Iterable[str] = (), constraints: x509.BasicConstraints | None = None
) -> bytes:
    """What a child asks with."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(names, critical=False)
    if constraints is not None:
        builder = builder.add_extension(constraints, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@dataclass
class ChildIssuer:
    """An issuing authority of a child, with its key."""

    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]
    root: x509.Certificate
    number: int = 1
    revoked: tuple[RevokedCertificate, ...] = ()
    _signed: dict[int, bytes] = field(default_factory=dict)

    @property
    def certificate(self) -> x509.Certificate:
        return self.chain[0]

    @property
    def root_key_id(self) -> bytes:
        return self.root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest

    def crl(self) -> bytes:
        """Its list of this number, always the same bytes."""
        if self.number not in self._signed:
            made = build_crl(issuer=self.certificate, key=self.key, number=self.number, revoked=self.revoked)
            self._signed[self.number] = made.public_bytes(Encoding.DER)
        return self._signed[self.number]

    def reported(self, *, with_list: bool = True) -> pb.IssuerReport:
        crl = self.crl() if with_list else b""
        certificate = self.certificate.public_bytes(Encoding.DER)
        return pb.IssuerReport(certificate=certificate, root_key_id=self.root_key_id, crl=crl)

    def svid(self, uri: str, key: ec.EllipticCurvePrivateKey, *, like: x509.Certificate) -> x509.Certificate:
        """A leaf that it signs, with the life of `like`."""
        builder = (
            x509.CertificateBuilder(
                subject_name=x509.Name([]),
                issuer_name=self.certificate.subject,
                public_key=key.public_key(),
                serial_number=x509.random_serial_number(),
            )
            .not_valid_before(like.not_valid_before_utc)
            .not_valid_after(min(like.not_valid_after_utc, self.certificate.not_valid_after_utc))
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(like.extensions.get_extension_for_class(x509.KeyUsage).value, critical=True)
            .add_extension(like.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value, critical=False)
            .add_extension(authority_key_identifier(self.certificate), critical=False)
        )
        return builder.sign(self.key, hashes.SHA256())


@dataclass
class Following:
    """One Follow stream, read all the time as a child reads it."""

    call: Any
    trust: pb.ClusterTrust | None = None
    everywhere: pb.KnownVersions = field(default_factory=pb.KnownVersions)
    ended: aio.AioRpcError | None = None
    is_over: bool = False
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def read(self) -> None:
        try:
            async for update in self.call:
                async with self._news:
                    if update.HasField("trust"):
                        self.trust = update.trust
                    else:
                        self.everywhere = update.everywhere
                    self._news.notify_all()
        except aio.AioRpcError as error:
            self.ended = error
        finally:
            async with self._news:
                self.is_over = True
                self._news.notify_all()

    async def until(self, condition: Callable[[Following], bool]) -> pb.ClusterTrust:
        """Until it is so; the trust as it is then."""
        async with asyncio.timeout(10), self._news:
            await self._news.wait_for(lambda: condition(self))
        return self.trust or pb.ClusterTrust()

    async def trusted(self, condition: Callable[[pb.ClusterTrust], bool] = lambda _: True) -> pb.ClusterTrust:
        """The trust, as soon as it is like this."""
        return await self.until(lambda me: me.trust is not None and condition(me.trust))

    async def say(
        self,
        *issuers: pb.IssuerReport,
        acknowledged: pb.KnownVersions | None = None,
        keys: dict[str, JwtKey] | None = None,
        **more: Any,
    ) -> None:
        jwt_keys = None
        if keys is not None:
            bundle = TrustBundle(trust_domain=A_TEST, jwt_authorities=keys)
            jwt_keys = types_pb2.Bundle(trust_domain=A_TEST.name, json=bundle.to_json())
        report = pb.ClusterReport(issuers=issuers, jwt_keys=jwt_keys, acknowledged=acknowledged, **more)
        await self.call.write(report)


@dataclass
class FakeChild:
    """The server of a child, with an SVID of its downstream entry."""

    server: Server
    member: Member
    entry: types_pb2.Entry

    def stub(self, member: Member | None = None) -> clusters_pb2_grpc.ClustersAsyncStub:
        channel = self.server.tls(self.server.settings.listen.agents, member or self.member)
        return clusters_pb2_grpc.ClustersStub(channel)

    async def sign(self, *, lifetime: timedelta | None = None, **more: Any) -> ChildIssuer:
        """A new issuing authority."""
        key = new_key()
        request = pb.SignIssuerRequest(trust_domain="a.test", csr=child_csr(key), **more)
        if lifetime is not None:
            request.lifetime.CopyFrom(to_duration(lifetime))
        answer = await self.stub().SignIssuer(request)
        chain = tuple(map(x509.load_der_x509_certificate, answer.chain))
        return ChildIssuer(key, chain, x509.load_der_x509_certificate(answer.root))

    @asynccontextmanager
    async def following(self, member: Member | None = None) -> AsyncIterator[Following]:
        follow = Following(self.stub(member).Follow())
        reading = asyncio.create_task(follow.read())
        try:
            yield follow
        finally:
            follow.call.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def child_of(server: Server, agent: Member, path: str = "/cluster/east", **fields: Any) -> FakeChild:
    """A child with an entry of its own under this agent."""
    entry = await server.entry(path, agent, **({"downstream": True} | fields))
    return FakeChild(server, await svid_of(server, agent, entry), entry)


async def svid_of(server: Server, agent: Member, entry: types_pb2.Entry) -> Member:
    """An SVID of this entry, signed by the server for the agent."""
    key = new_key()
    (answer,) = await sign(server.agents(agent), (entry.id, csr(key)))
    assert answer.HasField("svid"), answer
    return Member(key, tuple(answer.svid.chain), entry.spiffe_id)
