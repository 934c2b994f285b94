"""Coming back when the agent's own SVID has expired: it was off, or its server was away, for too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from cryptography import x509

from citadel.config.types import HostPort
from citadel.errors import CitadelError, Reason, Unauthenticated
from sds.keep.keys import PrivateKey
from sds.link.bootstrap import Bootstrap, Invitation
from sds.link.credentials import RecordedKey
from sds.link.identity import AgentIdentity

_log = structlog.get_logger(__name__)


# What the server says to an agent that is none, or whose key another one has taken the place of.
_REPLACED: Final = frozenset({Reason.AGENT_UNKNOWN, Reason.AGENT_KEY_MISMATCH})


@dataclass(frozen=True, slots=True, kw_only=True)
class Anew:
    """What this machine can always join with: `invitation` makes it of the one by the recorded key, from the disk.

    It is used after one of `reasons`, where the server does not take the key any more. With `at_once` it is so before
    the SVID has ended too: the server sees to it that of two the right one is let in.
    """

    invitation: Callable[[Invitation], Invitation]
    reasons: frozenset[Reason] = frozenset({Reason.REJOIN_REFUSED})
    at_once: bool = False


class Returning:
    """Asks the server for a new SVID with the agent's recorded key; the server is known by the agent's last bundle.

    `servers` are bootstrap listeners; none of them means the one where the agent joined.
    """

    def __init__(
        self,
        *,
        bootstrap: Bootstrap,
        servers: tuple[HostPort, ...],
        anew: Anew | None = None,
    ) -> None:
        self._bootstrap = bootstrap
        self._servers = servers
        self._anew = anew

    def comes_anew(self, trouble: CitadelError | None) -> bool:
        """Whether it is to join anew now, since the server says with `trouble` that it has no place for it."""
        return self._anew is not None and self._anew.at_once and trouble is not None and trouble.reason in _REPLACED

    async def knows_no_more(self, current: AgentIdentity) -> bool:
        """Whether the server says that it has dropped the root which the agent's own SVID hangs on.

        Whoever answers may say so: it is a reason to ask to be let in anew, which no impostor can grant. Raises
        `Unavailable`, or what the server answered wrongly.
        """
        shown = await self._bootstrap.shown_by(self._servers or (current.bootstrap,))
        return not await asyncio.to_thread(current.is_believed_by, shown, self._bootstrap.clock.now())

    async def issuers(self, current: AgentIdentity) -> Sequence[x509.Certificate]:
        """The issuing authorities that servers show, to everybody and without proof."""
        return await self._bootstrap.issuers_shown_by(self._servers or (current.bootstrap,))

    async def identity(self, current: AgentIdentity, *, key: PrivateKey) -> AgentIdentity:
        """The identity with `key`, which is on disk already, in the place of `current`, whose SVID has expired.

        Raises `Unauthenticated` (`rejoin_refused`, `bundle_mismatch`) or `PermissionDenied` (`agent_banned`) where only
        a person can help, and says how; `Unavailable` where trying again can.
        """
        invitation = Invitation(
            trust_domain=current.svid.spiffe_id.trust_domain,
            servers=self._servers or (current.bootstrap,),
            credential=RecordedKey(spiffe_id=current.svid.spiffe_id, key=current.key),
            known_bundle=current.bundle,
            own_chain=current.svid.chain,
        )
        try:
            return await self._bootstrap.join(invitation, key=key)
        except Unauthenticated as error:
            if self._anew is None or error.reason not in self._anew.reasons:
                raise
            _log.info("joining anew", reason=error.reason, error=str(error))
            anew = await asyncio.to_thread(self._anew.invitation, invitation)
            return await self._bootstrap.join(anew, key=key)
