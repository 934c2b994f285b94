"""Joining: how a machine without an identity comes to know its server, and only then gives its token away.

Whoever answers is asked for its bundle over a channel that proves nothing. Once the bundle is the expected one, a new
channel is opened on which the server must prove itself by it, and only there the token is sent.
"""

from __future__ import annotations

import asyncio
import hmac
import ssl
from dataclasses import dataclass, field
from typing import Final

import structlog
from cryptography import x509

from citadel._wire import bootstrap_pb2 as pb
from citadel._wire import bootstrap_pb2_grpc, types_pb2
from citadel.bundle import TrustBundle
from citadel.clock import Clock
from citadel.config.types import HostPort
from citadel.errors import FailedPrecondition, InvalidArgument, Reason, Unauthenticated, Unavailable
from citadel.join_string import JoinString
from citadel.reserved import is_agent_id
from citadel.spiffe import SpiffeId, TrustDomain
from sds.keep.check import check_issued
from sds.keep.keys import PrivateKey, request_for
from sds.link.call import answer_of
from sds.link.channel import anonymous_channel
from sds.link.identity import AgentIdentity
from sds.settings import ReconnectSettings

_TIMEOUT: Final = 10.0  # seconds, for each step

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What the operator gave: the join string, and how the server is to be known by it.

    With `known_bundle` the server must prove itself by that bundle, otherwise by one with the join string's digest.
    `insecure` believes whatever bundle the first answer shows.
    """

    join_string: JoinString
    known_bundle: TrustBundle | None = None
    insecure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """Joins `trust_domain` through the server's bootstrap listener."""

    trust_domain: TrustDomain
    reconnect: ReconnectSettings
    clock: Clock = field(repr=False)

    async def join(self, invitation: Invitation, *, key: PrivateKey) -> AgentIdentity:
        """Exchange the token for an identity with `key`, which must outlive a lost answer: see `sds.link.joining_key`.

        Raises `Unauthenticated` (`bundle_mismatch`) before the token was sent when the server is not the expected one,
        `Unavailable` where trying again with the same key can help, and otherwise what the server refused or answered
        wrongly.
        """
        join_string = invitation.join_string
        if join_string.trust_domain != self.trust_domain:
            raise InvalidArgument(
                Reason.CONFIG_INVALID,
                f"the join string is for {join_string.trust_domain}, and this agent for {self.trust_domain}",
                fix="set `trust_domain` to that of the server, or make a join string there",
            )
        fetched = await self._fetch_bundle(join_string.address)
        trusted = self._expected(fetched, invitation)
        answer = await self._join(join_string, trusted, request_for(key))
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
        _log.info("joined", spiffe_id=str(spiffe_id), server=str(join_string.address))
        return AgentIdentity(
            svid=svid, key=key, bundle=bundle, agent_api=_address(answer.agent_api), bootstrap=join_string.address
        )

    async def _fetch_bundle(self, address: HostPort) -> TrustBundle:
        """The bundle of whoever listens there. Nothing is proven by it yet, so nothing secret is sent."""
        # gRPC has no unverified TLS, so the channel is pinned to just the certificate that is presented right now.
        try:
            presented = await asyncio.to_thread(
                ssl.get_server_certificate, (address.host, address.port), timeout=_TIMEOUT
            )
        except OSError as error:
            raise Unavailable(Reason.SERVER_UNREACHABLE, f"cannot reach a server at {address}: {error}") from error
        async with anonymous_channel(address, roots_pem=presented.encode("ascii"), reconnect=self.reconnect) as channel:
            stub: bootstrap_pb2_grpc.BootstrapAsyncStub = bootstrap_pb2_grpc.BootstrapStub(channel)
            answer = await answer_of(stub.GetBundle(pb.GetBundleRequest(), timeout=_TIMEOUT))
        return self._own_bundle(answer.bundle)

    async def _join(self, join_string: JoinString, trusted: TrustBundle, csr: bytes) -> pb.JoinResponse:
        """Send the token, on a channel where the server had to prove itself by `trusted` in the handshake."""
        roots = trusted.to_pem()
        async with anonymous_channel(join_string.address, roots_pem=roots, reconnect=self.reconnect) as channel:
            stub: bootstrap_pb2_grpc.BootstrapAsyncStub = bootstrap_pb2_grpc.BootstrapStub(channel)
            return await answer_of(stub.Join(pb.JoinRequest(token=join_string.token, csr=csr), timeout=_TIMEOUT))

    def _expected(self, fetched: TrustBundle, invitation: Invitation) -> TrustBundle:
        """The bundle to believe the server by, once the fetched one is what was promised."""
        if invitation.insecure:
            _log.warning(
                "INSECURE BOOTSTRAP: the server is believed without proof, and gets the join token",
                server=str(invitation.join_string.address),
                bundle_sha256=fetched.x509_digest(),
            )
            return fetched
        known = invitation.known_bundle
        if known is None:
            if hmac.compare_digest(fetched.x509_digest(), invitation.join_string.bundle_sha256):
                return fetched
            raise _mismatch("does not have the digest that the join string names")
        # One root may have been added or dropped since the file was written. The handshake decides on what is common.
        if set(known.x509_authorities).isdisjoint(fetched.x509_authorities):
            raise _mismatch("has no authority in common with the bundle file")
        return known

    def _own_bundle(self, message: types_pb2.Bundle) -> TrustBundle:
        trust_domain = TrustDomain.parse(message.trust_domain)
        if trust_domain != self.trust_domain:
            raise _mismatch(f"is that of {trust_domain}, and this agent is for {self.trust_domain}")
        return TrustBundle.from_json(trust_domain, message.json)


def parse_bundle_file(trust_domain: TrustDomain, data: bytes) -> TrustBundle:
    """A bundle in the SPIFFE JSON format or as PEM certificates. Raises `InvalidArgument` (`bundle_malformed`)."""
    if data.lstrip().startswith(b"{"):
        return TrustBundle.from_json(trust_domain, data)
    try:
        return TrustBundle(trust_domain=trust_domain, x509_authorities=tuple(x509.load_pem_x509_certificates(data)))
    except ValueError as error:
        raise InvalidArgument(Reason.BUNDLE_MALFORMED, f"neither SPIFFE JSON nor PEM certificates: {error}") from error


def _address(text: str) -> HostPort:
    try:
        return HostPort.parse(text)
    except ValueError as error:
        # Final, not `Unavailable`: another try would only be answered the same.
        raise FailedPrecondition(Reason.REQUEST_MALFORMED, f"the server's address for agents: {error}") from error


def _mismatch(problem: str) -> Unauthenticated:
    return Unauthenticated(
        Reason.BUNDLE_MISMATCH,
        f"the server's trust bundle {problem}; the join token was not sent",
        fix="check the address, or make a new join string on the server that you mean",
    )
