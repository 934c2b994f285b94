"""Coming back when the agent's own SVID has expired: it was off, or its server was away, for too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog
from cryptography import x509

from citadel.config.types import HostPort
from citadel.errors import Reason, Unauthenticated
from sds.keep.keys import PrivateKey
from sds.link.bootstrap import Bootstrap, Invitation
from sds.link.credentials import Credential, RecordedKey
from sds.link.identity import AgentIdentity

_log = structlog.get_logger(__name__)


class Returning:
    """Asks the server for a new SVID with the agent's recorded key; the server is known by the agent's last bundle.

    `servers` are bootstrap listeners; none of them means the one where the agent joined. `node_certificate`, where the
    machine has one, blocks on the disk; it is shown where the server does not take the key any more.
    """

    def __init__(
        self,
        *,
        bootstrap: Bootstrap,
        servers: tuple[HostPort, ...],
        node_certificate: Callable[[], Credential] | None = None,
    ) -> None:
        self._bootstrap = bootstrap
        self._servers = servers
        self._node_certificate = node_certificate

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
            if self._node_certificate is None or error.reason is not Reason.REJOIN_REFUSED:
                raise
            _log.info("joining anew with the machine's certificate", reason=error.reason, error=str(error))
            credential = await asyncio.to_thread(self._node_certificate)
            return await self._bootstrap.join(replace(invitation, credential=credential), key=key)
