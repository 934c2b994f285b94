"""Joining with a certificate that the machine has already: it proves the certificate's key, and needs no token."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import structlog
from cryptography import x509

from ca.agents.model import Agent, JoinedBy, joined
from ca.agents.node_certificate import NodeCertificate, trusted_for_joining
from ca.agents.proving import Claim, NewNonce, new_nonce
from ca.agents.roster import AgentRoster
from ca.issuance.csr import public_key_of
from ca.issuance.issuer import Issuer, key_digest
from ca.issuance.press import IssuedSvid
from citadel.clock import Clock
from citadel.errors import FailedPrecondition, InvalidArgument, PermissionDenied, Reason, Unavailable
from citadel.possession import Challenge, Purpose
from citadel.reserved import x509pop_agent_id
from citadel.spiffe import TrustDomain
from citadel.tasks import to_its_end

_log = structlog.get_logger(__name__)

Anchors = Callable[[], Sequence[x509.Certificate]]


class X509PopJoining:
    """Lets in who proves the key of a certificate under one of `anchors`; nobody where that is None.

    `anchors` blocks on the disk, and raises `InvalidArgument` where they cannot be read.
    """

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        anchors: Anchors | None,
        roster: AgentRoster,
        issuer: Issuer,
        clock: Clock,
        nonce: NewNonce = new_nonce,
    ) -> None:
        self._trust_domain = trust_domain
        self._anchors = anchors
        self._roster = roster
        self._issuer = issuer
        self._clock = clock
        self._nonce = nonce

    async def claim(self, chain_der: Sequence[bytes], csr: bytes) -> Claim:
        """The claim to hold the key of `chain_der`'s leaf, which is judged first.

        Raises `Unauthenticated` (`x509pop_refused`), `InvalidArgument` for the request, `FailedPrecondition`
        (`x509pop_refused`) where nobody may join like this, `Unavailable` where the server's own file is at fault.
        """
        if self._anchors is None:
            raise FailedPrecondition(
                Reason.X509POP_REFUSED,
                "this server lets nobody join with a certificate",
                fix="set joining.x509pop.ca_file in its settings, or join with a token",
            )
        public_key_of(csr)
        certificate = await asyncio.to_thread(self._judged, self._anchors, chain_der)
        challenge = Challenge(
            purpose=Purpose.X509POP,
            trust_domain=self._trust_domain,
            claimant=certificate.fingerprint,
            csr=csr,
            nonce=self._nonce(),
        )
        return Claim(challenge=challenge, key=certificate.public_key, admit=partial(self._admit, certificate, csr))

    def _judged(self, anchors: Anchors, chain_der: Sequence[bytes]) -> NodeCertificate:
        try:
            trusted = anchors()
        except InvalidArgument as error:
            _log.error("nobody can join with a certificate", reason=error.reason, error=str(error))
            raise Unavailable(
                Reason.X509POP_REFUSED,
                "the server cannot read which certificates it trusts for joining",
                fix="see its log",
            ) from error
        return trusted_for_joining(chain_der, trusted, now=self._clock.now())

    async def _admit(self, certificate: NodeCertificate, csr: bytes, origin: str) -> IssuedSvid:
        agent = Agent(
            spiffe_id=x509pop_agent_id(self._trust_domain, certificate.fingerprint),
            key=key_digest(public_key_of(csr)),
            next_key=None,
            selectors=certificate.selectors,
            banned=False,
            joined_at=self._clock.now(),
            joined_by=JoinedBy.X509POP,
        )
        await to_its_end(self._record(agent, origin))
        _log.info("agent joined", agent=str(agent.spiffe_id), by=agent.joined_by.value)
        return await self._roster.issue_own(agent.spiffe_id, csr, issuer=self._issuer)

    async def _record(self, agent: Agent, origin: str) -> None:
        async with self._roster.one_change_at_a_time:
            if self._roster.is_banned(agent.spiffe_id):
                raise PermissionDenied(Reason.AGENT_BANNED, f"{agent.spiffe_id} is banned")
            await self._roster.record(agent, joined(agent, origin=origin))
