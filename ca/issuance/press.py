"""What a leaf is to say, and how an authority signs it: `ca.issuance.issuer` alone decides that it does."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.authority.model import IssuingAuthority
from ca.issuance.csr import WorkloadPublicKey
from ca.issuance.fast_leaf import leaf_signer
from ca.issuance.leaf import LeafSigner
from ca.issuance.ledger import LedgerRow
from ca.issuance.lifetime import LifetimePolicy, LimitedBy, Validity, settle
from ca.keys.kinds import AuthorityKey
from ca.keys.signing import most_inline
from citadel.serial import new_serial, serial_hex
from citadel.spiffe import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedSvid:
    """A certificate that may be handed out: its ledger row is durable. `chain_der` is leaf first, without the root."""

    spiffe_id: SpiffeId
    chain_der: tuple[bytes, ...]
    not_after: datetime
    limited_by: LimitedBy

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """The same chain, parsed."""
        return tuple(map(x509.load_der_x509_certificate, self.chain_der))


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Who a leaf is for, and for how long."""

    spiffe_id: SpiffeId
    entry_id: str
    dns_names: tuple[str, ...]
    validity: Validity


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """All that a leaf is to say, settled before it is signed, and the row that must be durable before it leaves.

    `public_key` is a SubjectPublicKeyInfo in DER.
    """

    subject: Subject
    public_key: bytes
    serial: int
    row: LedgerRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Press:
    """An issuing authority, and what all leaves under it share: `chain_der` is what they are handed out with."""

    issuing: IssuingAuthority
    chain_der: tuple[bytes, ...]
    signer: LeafSigner
    inline: int  # so few are signed on the loop

    @classmethod
    def of(cls, issuing: IssuingAuthority) -> Press:
        certificate = issuing.authority.certificate
        signer = leaf_signer(issuer=certificate)
        chain = tuple(each.public_bytes(Encoding.DER) for each in (certificate, *issuing.authority.chain))
        return cls(issuing=issuing, chain_der=chain, signer=signer, inline=most_inline(issuing.key))

    def settled(
        self,
        ttl: timedelta | None = None,
        expires_at: datetime | None = None,
        *,
        now: datetime,
        policy: LifetimePolicy,
    ) -> Validity:
        """The lifetime of a leaf for an entry with these limits. Raises as `lifetime.settle`."""
        return settle(
            now=now,
            policy=policy,
            asked=ttl,
            entry_expires_at=expires_at,
            issuer_not_before=self.issuing.authority.not_before,
            issuer_not_after=self.issuing.authority.not_after,
        )

    def drafted(
        self, subject: Subject, public_key: WorkloadPublicKey, *, requested_by: SpiffeId, now: datetime
    ) -> Draft:
        """The draft of a leaf for this key, with a serial number of its own."""
        serial, key_info = new_serial(), public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        row = LedgerRow(
            serial=serial_hex(serial),
            spiffe_id=subject.spiffe_id,
            entry_id=subject.entry_id,
            requested_by=requested_by,
            issuer_id=self.issuing.authority.id,
            public_key=hashlib.sha256(key_info).hexdigest(),
            not_before=subject.validity.not_before,
            not_after=subject.validity.not_after,
            issued_at=now,
            limited_by=subject.validity.limited_by.value,
        )
        return Draft(subject=subject, public_key=key_info, serial=serial, row=row)

    def signed(self, key: AuthorityKey, draft: Draft) -> IssuedSvid:
        """The leaf that `draft` says, by the authority's key or what stands in for it."""
        subject = draft.subject
        leaf = self.signer.sign(
            key=key,
            spiffe_id=subject.spiffe_id,
            dns_names=subject.dns_names,
            public_key=draft.public_key,
            validity=subject.validity,
            serial=draft.serial,
        )
        return IssuedSvid(
            spiffe_id=subject.spiffe_id,
            chain_der=(leaf, *self.chain_der),
            not_after=subject.validity.not_after,
            limited_by=subject.validity.limited_by,
        )
