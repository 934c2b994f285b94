"""What an authority is, in the store and in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cryptography import x509

from ca.authority.certificates import subject_key_id
from ca.keys.remote import SigningKey


class AuthorityKind(StrEnum):
    """Roots are what the bundle lists; issuers are intermediates under one, which sign leaves."""

    ROOT = "root"
    ISSUER = "issuer"


class AuthorityState(StrEnum):
    """The life of an authority; see "Authorities and rotation" in the design."""

    PREPARED = "prepared"
    ACTIVE = "active"
    OLD = "old"
    TAINTED = "tainted"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """One authority. `parent_id` is the root that an issuer leads to; `key_id` names its key in the key manager.

    `key_id` is empty for a root whose key is elsewhere. `chain` are the certificates between an issuer and its root,
    nearest first.
    """

    id: str
    kind: AuthorityKind
    state: AuthorityState
    key_id: str
    certificate: x509.Certificate
    parent_id: str | None
    created_at: datetime
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def subject_key_id(self) -> bytes:
        """What certificates under this one call it by."""
        return subject_key_id(self.certificate)

    @property
    def not_before(self) -> datetime:
        """Start of validity."""
        return self.certificate.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """End of validity: nothing that it signs may outlive this (invariant 6)."""
        return self.certificate.not_valid_after_utc


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuingAuthority:
    """The authority that signs leaves now, with its key at hand."""

    authority: Authority
    key: SigningKey


def active_of(authorities: Iterable[Authority]) -> Authority | None:
    """The one of them that signs: of one kind there is one at the most."""
    return next((each for each in authorities if each.state is AuthorityState.ACTIVE), None)


def old_and_ended(authorities: Iterable[Authority], now: datetime) -> list[str]:
    """The ids of those that signed once and have ended: nothing that they vouched for is valid any more."""
    return [each.id for each in authorities if each.state is AuthorityState.OLD and each.not_after <= now]


def newest_under(root_id: str, issuers: Iterable[Authority], *, now: datetime) -> Authority | None:
    """The last of them that is under the root of this id and has not ended."""
    under = [each for each in issuers if each.parent_id == root_id and each.not_after > now]
    return under[-1] if under else None


def prepared_under_the_active(
    roots: Iterable[Authority], issuers: Iterable[Authority], *, now: datetime
) -> Authority | None:
    """The last of the issuers that was prepared under the root that signs, and has not ended."""
    active = {root.id for root in roots if root.state is AuthorityState.ACTIVE}
    found = [
        each
        for each in issuers
        if each.parent_id in active and each.state is AuthorityState.PREPARED and each.not_after > now
    ]
    return found[-1] if found else None


def can_go_on(authorities: Iterable[Authority], roots: Iterable[Authority], *, now: datetime) -> bool:
    """Whether what is recorded can sign: an issuing authority that has not ended, whose root is still trusted.

    Or one that was prepared under the root that signs: few miss it, and without one everybody would.
    """
    state_of = {root.id: root.state for root in roots}
    return any(
        each.kind is AuthorityKind.ISSUER
        and each.not_after > now
        and each.parent_id in state_of
        and (
            each.state is AuthorityState.ACTIVE
            or (each.state is AuthorityState.PREPARED and state_of[each.parent_id] is AuthorityState.ACTIVE)
        )
        for each in authorities
    )
