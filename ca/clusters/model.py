"""What the server knows of the clusters below it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509

from ca.authority.certificates import subject_key_id
from citadel.jwk import JwtKey
from citadel.revocation import RevocationList
from citadel.serial import serial_hex
from citadel.spiffe import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildAuthority:
    """An issuing authority that was signed for a child, or through it for a cluster below that one.

    `root_key_id` is what certificates call the root by that it leads to.
    """

    child: SpiffeId
    certificate: x509.Certificate
    root_key_id: bytes
    signed_at: datetime

    @property
    def serial(self) -> str:
        """Its serial number in lowercase hex."""
        return serial_hex(self.certificate.serial_number)

    @property
    def key_id(self) -> bytes:
        """What certificates and lists call its key by."""
        return subject_key_id(self.certificate)

    @property
    def not_after(self) -> datetime:
        """Its end."""
        return self.certificate.not_valid_after_utc


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What is believed of a child's report: what it says of its own authorities and keys, and of those below it.

    `issuers` are on record there, and of these `without_list` have no list that can be used. `withdrawn` are the ids of
    keys for tokens that it named before, the newest last; it does not say so itself.
    """

    at: datetime
    issuers: frozenset[x509.Certificate] = frozenset()
    lists: tuple[RevocationList, ...] = ()
    without_list: frozenset[x509.Certificate] = frozenset()
    jwt_keys: Mapping[str, JwtKey] = field(default_factory=dict)
    withdrawn: tuple[str, ...] = ()

    def says_the_same(self, other: Said) -> bool:
        """Whether both say the same, whenever it was said."""
        return (self.issuers, self.without_list, self.jwt_keys) == (
            other.issuers,
            other.without_list,
            other.jwt_keys,
        ) and [each.der for each in self.lists] == [each.der for each in other.lists]
