"""Signed words about a chain: "at this moment the row at this position had this hash".

Each is a JWS (RFC 7515, compact form, ES256) whose payload is JSON, so that any JOSE library can check it. The key is
named by its fingerprint, the SHA-256 (hex) of its SubjectPublicKeyInfo, which an operator can pin.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWS
from jwt.exceptions import InvalidTokenError

from ca.keys.remote import SigningKey
from ca.keys.signing import sign_with
from ca.ledger.chain import Head, Log
from citadel.errors import FailedPrecondition, InvalidArgument, Reason

_ALGORITHM: Final = "ES256"
_TYPE: Final = "citadel-checkpoint+json"  # what the key signs for nothing else (RFC 8725 section 3.11)
_FORMAT: Final = 1


class CheckpointKind(StrEnum):
    """A checkpoint, or the anchor that pruning leaves: the last row that was removed."""

    CHECKPOINT = "checkpoint"
    ANCHOR = "anchor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What is signed. `signed_by` is the fingerprint of the key, where a signature was read.

    An anchor also says the hash with which its segment began, since the rows that showed it are gone: otherwise what
    the segment says of the one before it could be changed.
    """

    log: Log
    head: Head
    at: datetime
    kind: CheckpointKind = CheckpointKind.CHECKPOINT
    genesis: bytes = b""
    signed_by: str = ""


class CheckpointSigner:
    """Signs with one key, which may be elsewhere."""

    def __init__(self, key: SigningKey, *, public_key: ec.EllipticCurvePublicKey) -> None:
        """`public_key` is its other half, which was looked at."""
        self._key = key
        self.public_key = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.fingerprint = fingerprint_of(public_key)

    async def sign(self, checkpoint: Checkpoint) -> str:
        """The JWS, in compact form. Raises as `RemoteKey.sign`."""
        payload = {
            "format": _FORMAT,
            "kind": checkpoint.kind.value,
            "log": checkpoint.log.value,
            "writer": checkpoint.head.writer,
            "position": checkpoint.head.position,
            "hash": checkpoint.head.hash.hex(),
            "at": checkpoint.at.isoformat(),
        }
        if checkpoint.kind is CheckpointKind.ANCHOR:
            payload["genesis"] = checkpoint.genesis.hex()
        headers = {"typ": _TYPE, "kid": self.fingerprint}
        encoded = json.dumps(payload).encode()
        return await sign_with(
            self._key, lambda key: PyJWS().encode(encoded, key, algorithm=_ALGORITHM, headers=headers)
        )


def read_checkpoint(jws: str, keys: Mapping[str, ec.EllipticCurvePublicKey]) -> Checkpoint:
    """What was signed, by one of `keys` (fingerprint to key).

    Raises:
        InvalidArgument: `chain_broken`, it is not a checkpoint at all.
        FailedPrecondition: `chain_broken`, another key signed it, or nobody did.
    """
    try:
        header = PyJWS().get_unverified_header(jws)
        key = keys.get(header["kid"])
        if key is None:
            raise FailedPrecondition(
                Reason.CHAIN_BROKEN, f"a checkpoint is signed by the key {header['kid']}, which is not trusted"
            )
        if header.get("typ") != _TYPE:
            raise InvalidArgument(Reason.CHAIN_BROKEN, f"a JWS of type {header.get('typ')!r} is not a checkpoint")
        payload = PyJWS().decode(jws, key, algorithms=[_ALGORITHM])
        return replace(_from_payload(payload), signed_by=fingerprint_of(key))
    except InvalidTokenError as error:
        raise FailedPrecondition(Reason.CHAIN_BROKEN, f"a checkpoint's signature is wrong: {error}") from error
    except KeyError as error:
        raise InvalidArgument(Reason.CHAIN_BROKEN, "a JWS that names no key is not a checkpoint") from error


def read_unverified(jws: str) -> Checkpoint:
    """What a checkpoint of the own store says. Raises `InvalidArgument` (`chain_broken`) where it is none."""
    try:
        return _from_payload(PyJWS().decode(jws, options={"verify_signature": False}))
    except InvalidTokenError as error:
        raise InvalidArgument(Reason.CHAIN_BROKEN, f"this is not a checkpoint: {error}") from error


def fingerprint_of(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 (hex) of the SubjectPublicKeyInfo."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _from_payload(payload: bytes) -> Checkpoint:
    try:
        said = json.loads(payload)
        if said["format"] != _FORMAT:
            raise InvalidArgument(Reason.CHAIN_BROKEN, f"a checkpoint has the unknown format {said['format']}")
        kind = CheckpointKind(said["kind"])
        return Checkpoint(
            log=Log(said["log"]),
            head=Head(said["writer"], int(said["position"]), bytes.fromhex(said["hash"])),
            at=datetime.fromisoformat(said["at"]),
            kind=kind,
            genesis=bytes.fromhex(said["genesis"]) if kind is CheckpointKind.ANCHOR else b"",
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArgument(Reason.CHAIN_BROKEN, f"a checkpoint cannot be read: {error}") from error
