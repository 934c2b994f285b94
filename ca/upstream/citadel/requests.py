"""Asking the parent for issuing authorities, with a key that is made here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509

from ca.authority.fresh_key import fresh_key
from ca.authority.ports import KeyManager, MintedIssuer, SignedDownstream
from ca.keys.kinds import AuthorityPublicKey
from ca.keys.sealing import KeyPurpose
from ca.upstream.asking import issuer_request, until_begun
from ca.upstream.citadel.asking import checked_answer
from ca.upstream.citadel.ports import Asked
from ca.upstream.citadel.trust import root_id_of
from ca.upstream.refusals import Refusals
from citadel._wire import clusters_pb2 as pb
from citadel.clock import Clock
from citadel.errors import CitadelError, Unavailable
from citadel.spiffe import TrustDomain
from citadel.wire import to_duration

_ASK_AGAIN: Final = 60.0  # seconds after a refusal
_ASK_SOON: Final = 5.0  # seconds after an answer that is of no use yet: the parent has one more on record for each

Roots = Callable[[], Collection[x509.Certificate]]


class IssuerRequests:
    """Asks, and does not ask again soon where that was refused: `refusal` is why, until one is granted."""

    def __init__(self, *, trust_domain: TrustDomain, keys: KeyManager, clock: Clock) -> None:
        self._trust_domain = trust_domain
        self._keys = keys
        self._clock = clock
        self._answered = Refusals(clock=clock)
        self.refusal: CitadelError | None = None

    @property
    def are_due(self) -> bool:
        """Whether the parent would be asked now."""
        return self._answered.are_over

    async def mint(self, parent: Asked, roots: Roots, *, not_after: datetime) -> MintedIssuer:
        """An issuing authority of this server, under one of these roots. Raises as `UpstreamAuthority.mint`."""
        if (trouble := parent.trouble()) is not None:
            raise trouble  # before a key is made: this may be tried again and again
        self._answered.check()
        try:
            async with fresh_key(self._keys, KeyPurpose.ISSUER) as (key_id, key):
                csr = await issuer_request(key, self._trust_domain)
                signed = await self.signed(parent, roots, csr, key.public_key(), not_after=not_after)
                await until_begun(signed, self._clock)
        except CitadelError as error:
            if not isinstance(error, Unavailable):  # a person must do something, and the parent audits each refusal
                self.refusal = error
                self._answered.note(error, again_in=_ASK_AGAIN)
            raise
        self.refusal = None
        self._answered.end()
        return MintedIssuer(
            certificate=signed.chain[0], root_id=root_id_of(signed.root), key_id=key_id, chain=signed.chain[1:]
        )

    async def signed(
        self,
        parent: Asked,
        roots: Roots,
        csr: bytes,
        key: AuthorityPublicKey,
        *,
        not_after: datetime,
    ) -> SignedDownstream:
        """What the parent signs for this request and its key, if it is what was asked for."""
        lifetime = not_after - self._clock.now()
        request = pb.SignIssuerRequest(
            trust_domain=self._trust_domain.name, csr=csr, lifetime=to_duration(max(lifetime, timedelta(0)))
        )
        answer = await parent.sign_issuer(request)
        try:
            return await asyncio.to_thread(
                checked_answer,
                answer,
                public_key=key,
                trust_domain=self._trust_domain,
                roots=roots(),  # as they are now: they may have changed meanwhile
                not_after=not_after,
                now=self._clock.now(),
            )
        except Unavailable as error:
            self._answered.note(error, again_in=_ASK_SOON)
            raise
