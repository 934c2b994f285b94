"""Joining: how a machine without a valid identity comes to know its server, and only then shows what lets it in.

Whoever answers is asked for its bundle over a channel that proves nothing. Once the bundle is the expected one, a new
channel is opened on which the server must prove itself by it, and only there the credential is shown.
"""

from __future__ import annotations

import asyncio
import hmac
import ssl
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Self

import structlog
from cryptography import x509

from citadel._wire import bootstrap_pb2 as pb
from citadel._wire import bootstrap_pb2_grpc, types_pb2
from citadel.bundle import TrustBundle
from citadel.call import answer_of
from citadel.certification_path import UNREADABLE
from citadel.clock import Clock
from citadel.config.types import HostPort
from citadel.errors import CitadelError, FailedPrecondition, InvalidArgument, Reason, Unauthenticated, Unavailable
from citadel.join_string import JoinString
from citadel.reserved import is_agent_id
from citadel.server_anchors import server_anchors, to_pem
from citadel.server_channel import anonymous_channel
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.succession import Succession, heirs_of
from citadel.succession_wire import successions_from_wire
from sds.keep.check import check_issued
from sds.keep.keys import PrivateKey, request_for
from sds.link.credentials import TIMEOUT, Credential, Token
from sds.link.identity import AgentIdentity
from sds.settings import ReconnectSettings

_MOST_SHOWN: Final = 64  # certificates of a stranger that are looked at

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """Where to be let in and by what, and how the server is to be known.

    `servers` are bootstrap listeners, of which one is enough; the first is tried first. With `known_bundle` the server
    must prove itself by that bundle, otherwise by one with the digest `bundle_sha256` (hex). `insecure` believes
    whatever bundle the first answer shows. One of the three must be set. `own_chain` is that of the SVID in hand, where
    there is one: who signed it is known for an authority of the trust domain.
    """

    trust_domain: TrustDomain
    servers: tuple[HostPort, ...]
    credential: Credential
    known_bundle: TrustBundle | None = None
    bundle_sha256: str = ""
    insecure: bool = False
    own_chain: tuple[x509.Certificate, ...] = ()

    @classmethod
    def of(
        cls,
        join_string: JoinString,
        *,
        servers: tuple[HostPort, ...] = (),
        known_bundle: TrustBundle | None = None,
        insecure: bool = False,
    ) -> Self:
        """What a join string invites to; `servers` stand in for the address that it names."""
        return cls(
            trust_domain=join_string.trust_domain,
            servers=servers or (join_string.address,),
            credential=Token(join_string.token),
            known_bundle=known_bundle,
            bundle_sha256=join_string.bundle_sha256,
            insecure=insecure,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """Joins `trust_domain` through the server's bootstrap listener."""

    trust_domain: TrustDomain
    reconnect: ReconnectSettings
    clock: Clock = field(repr=False)

    async def join(self, invitation: Invitation, *, key: PrivateKey) -> AgentIdentity:
        """Exchange the credential for an identity with `key`, which must outlive a lost answer.

        Raises `Unauthenticated` (`bundle_mismatch`) before the credential was shown when the server is not the expected
        one, `Unavailable` where trying again with the same key can help, and otherwise what the server refused or
        answered wrongly.
        """
        if invitation.trust_domain != self.trust_domain:
            raise InvalidArgument(
                Reason.CONFIG_INVALID,
                f"the join string is for {invitation.trust_domain}, and this agent for {self.trust_domain}",
                fix="set `trust_domain` to that of the server, or make a join string there",
            )
        for server in invitation.servers[:-1]:
            try:
                return await self._join_at(server, invitation, key)
            except Unavailable as error:
                _log.info("server away, trying the next", server=str(server), reason=error.reason, error=str(error))
        return await self._join_at(invitation.servers[-1], invitation, key)

    async def shown_by(self, servers: Sequence[HostPort]) -> TrustBundle:
        """The bundle that the first of `servers` shows which answers. Nothing is proven by it.

        Raises `Unavailable`, or what the last of them answered wrongly.
        """
        for server in servers[:-1]:
            try:
                return (await self._fetch_bundle(server)).bundle
            except Unavailable:
                continue
        return (await self._fetch_bundle(servers[-1])).bundle

    async def issuers_shown_by(self, servers: Sequence[HostPort]) -> list[x509.Certificate]:
        """The issuing authorities that any of `servers` shows. Nothing is proven by it; those away show none."""
        found = await asyncio.gather(*map(self._issuers_at, servers))
        return [issuer for each in found for issuer in each]

    async def _issuers_at(self, server: HostPort) -> tuple[x509.Certificate, ...]:
        try:
            return (await self._fetch_bundle(server)).issuers
        except CitadelError:
            return ()

    async def _join_at(self, server: HostPort, invitation: Invitation, key: PrivateKey) -> AgentIdentity:
        fetched = await self._fetch_bundle(server)
        roots_pem = await asyncio.to_thread(self._anchors, fetched, invitation, server)
        answer = await self._present(invitation.credential, server, roots_pem, request_for(key))
        bundle = self._own_bundle(answer.bundle)
        spiffe_id = SpiffeId.parse(answer.spiffe_id)
        if not spiffe_id.is_member_of(self.trust_domain) or not is_agent_id(spiffe_id):
            message = f"the server answered {spiffe_id}, which is not an agent of {self.trust_domain}"
            raise Unauthenticated(Reason.SVID_UNTRUSTED, message)
        svid = await asyncio.to_thread(
            check_issued,
            answer.chain,
            spiffe_id=spiffe_id,
            public_key=key.public_key(),
            bundle=bundle,
            now=self.clock.now(),
        )
        _log.info("joined", spiffe_id=str(spiffe_id), server=str(server))
        return AgentIdentity(svid=svid, key=key, bundle=bundle, agent_api=_address(answer.agent_api), bootstrap=server)

    async def _fetch_bundle(self, address: HostPort) -> _Fetched:
        """The bundle of whoever listens there. Nothing is proven by it yet, so nothing secret is sent."""
        # gRPC has no unverified TLS, so the channel is pinned to just the certificate that is presented right now.
        try:
            presented = await asyncio.to_thread(
                ssl.get_server_certificate, (address.host, address.port), timeout=TIMEOUT
            )
        except OSError as error:
            raise Unavailable(Reason.SERVER_UNREACHABLE, f"cannot reach a server at {address}: {error}") from error
        async with anonymous_channel(address, roots_pem=presented.encode("ascii"), reconnect=self.reconnect) as channel:
            stub: bootstrap_pb2_grpc.BootstrapAsyncStub = bootstrap_pb2_grpc.BootstrapStub(channel)
            answer = await answer_of(stub.GetBundle(pb.GetBundleRequest(), timeout=TIMEOUT))
        successions = successions_from_wire(self.trust_domain, answer.successions)
        issuers = await asyncio.to_thread(lambda: tuple(_readable(answer.issuers)))
        return _Fetched(self._own_bundle(answer.bundle), tuple(successions), issuers)

    async def _present(self, credential: Credential, server: HostPort, roots_pem: bytes, csr: bytes) -> pb.JoinResponse:
        """Show the credential, on a channel where the server had to prove itself by these in the handshake."""
        async with anonymous_channel(server, roots_pem=roots_pem, reconnect=self.reconnect) as channel:
            stub: bootstrap_pb2_grpc.BootstrapAsyncStub = bootstrap_pb2_grpc.BootstrapStub(channel)
            return await credential.present(stub, csr, trust_domain=self.trust_domain)

    def _anchors(self, answer: _Fetched, invitation: Invitation, server: HostPort) -> bytes:
        """What the server must prove itself by, in PEM. Blocks: verifies."""
        trusted = self._expected(answer, invitation, server)
        anchors = server_anchors(trusted, answer.issuers, now=self.clock.now(), own_chain=invitation.own_chain)
        if trusted.x509_authorities and not anchors:
            raise _mismatch(
                f"is under a root over several trust domains, and it shows no issuing authority of {self.trust_domain}"
            )
        return to_pem(anchors)

    def _expected(self, answer: _Fetched, invitation: Invitation, server: HostPort) -> TrustBundle:
        """The bundle to believe the server by, once the fetched one is what was promised. Blocks: verifies."""
        fetched = answer.bundle
        if invitation.insecure:
            _log.warning(
                "INSECURE BOOTSTRAP: the server is believed without proof, and is shown what lets this agent in",
                server=str(server),
                bundle_sha256=fetched.x509_digest(),
            )
            return fetched
        known = invitation.known_bundle
        if known is None:
            if hmac.compare_digest(fetched.x509_digest(), invitation.bundle_sha256):
                return fetched
            raise _mismatch("does not have the digest that the join string names")
        # One root may have been added or dropped since it was known. The handshake decides on what is common.
        common = set(known.x509_authorities).intersection(fetched.x509_authorities)
        return self._succeeded(known, common, answer, server)

    def _succeeded(
        self, known: TrustBundle, common: set[x509.Certificate], answer: _Fetched, server: HostPort
    ) -> TrustBundle:
        """The roots that are known, and those that these vouch for; the handshake decides on what is there of them."""
        heirs = heirs_of(
            known.x509_authorities, answer.successions, trust_domain=self.trust_domain, now=self.clock.now()
        )
        led_to = heirs.intersection(answer.bundle.x509_authorities)
        if not common and not led_to:
            raise _mismatch("has no authority in common with the one that this agent knows the server by")
        if led_to:
            _log.warning("the server has new roots, vouched for by those that were known", server=str(server))
        # A known root that is not shown counts for nothing here: it may be gone because it is tainted.
        return TrustBundle(trust_domain=self.trust_domain, x509_authorities=(*common, *led_to))

    def _own_bundle(self, message: types_pb2.Bundle) -> TrustBundle:
        trust_domain = TrustDomain.parse(message.trust_domain)
        if trust_domain != self.trust_domain:
            raise _mismatch(f"is that of {trust_domain}, and this agent is for {self.trust_domain}")
        return TrustBundle.from_json(trust_domain, message.json)


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What a server shows to everybody; nothing of it is verified."""

    bundle: TrustBundle
    successions: tuple[Succession, ...]
    issuers: tuple[x509.Certificate, ...]


def parse_bundle_file(trust_domain: TrustDomain, data: bytes) -> TrustBundle:
    """A bundle in the SPIFFE JSON format or as PEM certificates. Raises `InvalidArgument` (`bundle_malformed`)."""
    if data.lstrip().startswith(b"{"):
        return TrustBundle.from_json(trust_domain, data)
    try:
        return TrustBundle(trust_domain=trust_domain, x509_authorities=tuple(x509.load_pem_x509_certificates(data)))
    except ValueError as error:
        raise InvalidArgument(Reason.BUNDLE_MALFORMED, f"neither SPIFFE JSON nor PEM certificates: {error}") from error


def _readable(ders: Iterable[bytes]) -> Iterator[x509.Certificate]:
    for der in islice(ders, _MOST_SHOWN):
        try:
            yield x509.load_der_x509_certificate(der)
        except UNREADABLE:
            continue


def _address(text: str) -> HostPort:
    try:
        return HostPort.parse(text)
    except ValueError as error:
        # Final, not `Unavailable`: another try would only be answered the same.
        raise FailedPrecondition(Reason.REQUEST_MALFORMED, f"the server's address for agents: {error}") from error


def _mismatch(problem: str) -> Unauthenticated:
    return Unauthenticated(
        Reason.BUNDLE_MISMATCH,
        f"the server's trust bundle {problem}; nothing was shown to it that lets anybody in",
        fix="check the address; where all roots of the right server are new, join again with a new join string",
    )
