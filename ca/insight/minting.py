"""Certificates that no entry grants, for an administrator at the server's own socket."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from ca.audit.model import Act
from ca.audit.trail import Acts
from ca.entries.rules import check_entry
from ca.issuance.csr import public_key_of
from ca.issuance.issuer import Issuer, key_digest
from ca.issuance.press import IssuedSvid
from citadel.actor import Actor, ActorKind
from citadel.clock import Clock
from citadel.entry import Entry
from citadel.errors import InvalidArgument, PermissionDenied, Reason
from citadel.reserved import RESERVED_SEGMENT, agent_id
from citadel.selector import Selector
from citadel.spiffe import SpiffeId, TrustDomain

MAX_WHY: Final = 500  # characters
_ANYBODY: Final = frozenset({Selector("unix", "uid:0")})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What an administrator asks for. `ttl` is None for the server's default."""

    spiffe_id: SpiffeId
    csr: bytes
    why: str
    dns_names: tuple[str, ...] = ()
    ttl: timedelta | None = None


class Minter:
    """Mints by the rules that hold for entries, so never a reserved ID, a reserved DNS name or a foreign domain."""

    def __init__(self, *, trust_domain: TrustDomain, issuer: Issuer, acts: Acts, clock: Clock) -> None:
        self._trust_domain = trust_domain
        self._issuer = issuer
        self._acts = acts
        self._clock = clock

    async def mint(self, wish: Wish, *, by: Actor) -> IssuedSvid:
        """Sign for `wish`.

        Recorded in the audit log before it is signed, with the digest of the key, which the ledger's row has too: if
        either cannot be written, nothing leaves the server.

        Raises:
            InvalidArgument: what entries and certificate requests are refused for, or no `why`.
            PermissionDenied: `caller_not_allowed` for anybody but a local administrator.
            Unavailable: there is no issuing authority, or nothing can be recorded.
        """
        if by.kind is not ActorKind.LOCAL:
            raise PermissionDenied(Reason.CALLER_NOT_ALLOWED, "certificates are minted at the server's own socket only")
        why = wish.why.strip()
        if not why or len(why) > MAX_WHY or not why.isprintable():
            raise InvalidArgument(
                Reason.REQUEST_MALFORMED,
                f"a minted certificate needs a reason of at most {MAX_WHY} printable characters",
                fix="say why it is needed; the audit log keeps it",
            )
        now = self._clock.now()
        terms = self._terms(wish)
        check_entry(terms, trust_domain=self._trust_domain, now=now)
        digest = key_digest(public_key_of(wish.csr))
        act = Act(actor=by, what="svid.mint", target=str(wish.spiffe_id), detail=f"public key {digest}", why=why)
        await self._acts.record_all([act], at=now)
        return await self._issuer.issue_minted(terms, wish.csr, requested_by=self.requester(by))

    def requester(self, by: Actor) -> SpiffeId:
        """How the ledger, which knows SPIFFE IDs alone, names a local administrator: a reserved ID that nobody has."""
        return self._trust_domain.member(RESERVED_SEGMENT, "local", by.name.replace(":", "-"))

    def _terms(self, wish: Wish) -> Entry:
        """The wish as the terms of an entry that is never stored; its parent and selectors are for nobody."""
        return Entry(
            id="",
            spiffe_id=wish.spiffe_id,
            parent_id=agent_id(self._trust_domain, "none"),
            selectors=_ANYBODY,
            dns_names=wish.dns_names,
            x509_svid_ttl=wish.ttl,
        )
