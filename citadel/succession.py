"""Successions: what a root said, before its key was dropped, of the roots that came after it. Both sides share it.

Whoever was away while the roots changed knows only roots that are gone. A succession lets it believe their heirs for a
while, without a person. It is no certificate, so that no verifier of certificates can ever be led by it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from citadel.spiffe import TrustDomain

_CONTEXT: Final = b"citadel.v1 succession of roots"
_BY_RSA: Final = (padding.PKCS1v15(), hashes.SHA256())


@dataclass(frozen=True, slots=True, kw_only=True)
class Succession:
    """Who believes `signer` (SHA-256 of the root's DER) may believe `heirs`, until `until` (whole seconds)."""

    trust_domain: TrustDomain
    signer: bytes
    heirs: tuple[x509.Certificate, ...]
    until: datetime
    signature: bytes

    @classmethod
    def signed(
        cls,
        *,
        trust_domain: TrustDomain,
        root: x509.Certificate,
        key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
        heirs: Iterable[x509.Certificate],
        until: datetime,
    ) -> Self:
        """The word of `root`, whose key is `key`."""
        signer, named, end = root.fingerprint(hashes.SHA256()), tuple(heirs), until.replace(microsecond=0)
        message = _message(trust_domain, signer, named, end)
        if isinstance(key, rsa.RSAPrivateKey):
            signature = key.sign(message, *_BY_RSA)
        else:
            signature = key.sign(message, _by_curve(key.curve))
        return cls(trust_domain=trust_domain, signer=signer, heirs=named, until=end, signature=signature)

    def is_word_of(self, root: x509.Certificate) -> bool:
        """Whether `root` has signed this."""
        if self.signer != root.fingerprint(hashes.SHA256()):
            return False
        key, message = root.public_key(), _message(self.trust_domain, self.signer, self.heirs, self.until)
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(self.signature, message, _by_curve(key.curve))
            elif isinstance(key, rsa.RSAPublicKey):
                key.verify(self.signature, message, *_BY_RSA)
            else:
                return False
        except InvalidSignature:
            return False
        return True


def heirs_of(
    roots: Collection[x509.Certificate],
    successions: Iterable[Succession],
    *,
    trust_domain: TrustDomain,
    now: datetime,
) -> frozenset[x509.Certificate]:
    """The roots that those of `roots` lead to, over any number of successions, without themselves.

    A root that has ended vouches for nothing and is nobody's heir. Verifies signatures: call it off the loop.
    """
    good = [each for each in successions if each.trust_domain == trust_domain and each.until > now]
    believed = {root for root in roots if _is_valid(root, now)}
    found = True
    while found:
        by_fingerprint = {root.fingerprint(hashes.SHA256()): root for root in believed}
        led_to = {
            heir
            for each in good
            if (signer := by_fingerprint.get(each.signer)) is not None and each.is_word_of(signer)
            for heir in each.heirs
            if _is_valid(heir, now)
        }
        found = not led_to <= believed
        believed |= led_to
    return frozenset(believed.difference(roots))


def _is_valid(root: x509.Certificate, now: datetime) -> bool:
    return root.not_valid_before_utc <= now < root.not_valid_after_utc


def _message(trust_domain: TrustDomain, signer: bytes, heirs: Collection[x509.Certificate], until: datetime) -> bytes:
    parts = (
        _CONTEXT,
        trust_domain.name.encode(),
        signer,
        str(int(until.astimezone(UTC).timestamp())).encode(),
        *(heir.public_bytes(Encoding.DER) for heir in heirs),
    )
    # Each with its length, as in `citadel.possession`. No certificate or list begins like this, so that a key which
    # signs both never says the one by the other.
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _by_curve(curve: ec.EllipticCurve) -> ec.ECDSA:
    return ec.ECDSA(hashes.SHA384() if isinstance(curve, ec.SECP384R1) else hashes.SHA256())
