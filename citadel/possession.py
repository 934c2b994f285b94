"""Proof that somebody holds a private key: what is signed, and how it is checked. Both sides share it.

The signature covers what it is for, who claims it, where, the verifier's nonce, and the certificate request that it is
to bring in. So it is good for nothing else: not for another request, another server's nonce, or another protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from citadel.errors import InvalidArgument, Reason
from citadel.spiffe import TrustDomain

NONCE_BYTES: Final = 32

_CONTEXT: Final = b"citadel.v1 proof of possession"
_LEAST_RSA_BITS: Final = 2048
MOST_RSA_BITS: Final = 8192  # a larger one costs the verifier seconds
# One as long as the modulus costs every verifier a hundred times as much. Go takes no larger one than this either.
MOST_RSA_EXPONENT: Final = 2**31 - 1
_PSS: Final = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.DIGEST_LENGTH)
_ECDSA: Final = {
    ec.SECP256R1.name: ec.ECDSA(hashes.SHA256()),
    ec.SECP384R1.name: ec.ECDSA(hashes.SHA384()),
}

ProvingKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
ProvenKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class Purpose(StrEnum):
    """What a proof is for."""

    X509POP = "x509pop"
    REJOIN = "rejoin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """What is to be signed. `claimant` says in the purpose's own terms who signs; `csr` is DER."""

    purpose: Purpose
    trust_domain: TrustDomain
    claimant: str
    csr: bytes
    nonce: bytes

    def signed_by(self, key: ProvingKey) -> bytes:
        """The proof. Raises `InvalidArgument` (`csr_key_refused`) for a key that cannot prove here."""
        provable(key.public_key())
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(self._message(), _PSS, hashes.SHA256())
        return key.sign(self._message(), _ECDSA[key.curve.name])

    def is_met_by(self, signature: bytes, key: ProvenKey) -> bool:
        """Whether `signature` is the proof of the holder of `key`, which is one that `provable` gave."""
        try:
            if isinstance(key, rsa.RSAPublicKey):
                key.verify(signature, self._message(), _PSS, hashes.SHA256())
            else:
                key.verify(signature, self._message(), _ECDSA[key.curve.name])
        except InvalidSignature:
            return False
        return True

    def _message(self) -> bytes:
        parts = (
            _CONTEXT,
            self.purpose.value.encode(),
            self.trust_domain.name.encode(),
            self.claimant.encode(),
            self.nonce,
            self.csr,
        )
        # Each with its length: otherwise the end of one part could be read as the beginning of the next.
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def is_usual_rsa(key: rsa.RSAPublicKey) -> bool:
    """Whether it is strong, and does not cost its verifier a hundred times what others do."""
    return _LEAST_RSA_BITS <= key.key_size <= MOST_RSA_BITS and key.public_numbers().e <= MOST_RSA_EXPONENT


def provable(key: PublicKeyTypes) -> ProvenKey:
    """The key, where a proof can be made with it. Raises `InvalidArgument` (`csr_key_refused`)."""
    match key:
        case ec.EllipticCurvePublicKey() if key.curve.name in _ECDSA:
            return key
        case rsa.RSAPublicKey() if is_usual_rsa(key):
            return key
        case _:
            raise InvalidArgument(
                Reason.CSR_KEY_REFUSED,
                "a key can be proven that is EC P-256 or P-384, or RSA with 2048 to 8192 bits and a small exponent",
            )
