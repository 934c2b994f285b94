"""The default key manager: sealed keys in a folder, one file each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from ca.keys.sealing import KeyLabel, KeyPurpose, Sealer
from citadel.config.files import ensure_private_dir, write_private
from citadel.errors import FailedPrecondition, Reason, Unavailable
from citadel.spiffe import TrustDomain


class DiskKeyManager:
    """Fulfils `ca.authority.ports.KeyManager` with EC P-256 keys in `folder` (0700), each file 0600 and sealed."""

    def __init__(self, *, folder: Path, trust_domain: TrustDomain, sealer: Sealer) -> None:
        self._folder = folder
        self._trust_domain = trust_domain
        self._sealer = sealer

    async def create(self, purpose: KeyPurpose) -> str:
        return await asyncio.to_thread(self._create, purpose)

    async def signer(self, key_id: str, purpose: KeyPurpose) -> ec.EllipticCurvePrivateKey:
        return await asyncio.to_thread(self._load, key_id, purpose)

    async def delete(self, key_id: str) -> None:
        with _disk_refusals():
            await asyncio.to_thread(self._path(key_id).unlink, missing_ok=True)

    def _create(self, purpose: KeyPurpose) -> str:
        ensure_private_dir(self._folder)
        key_id = uuid4().hex
        key = ec.generate_private_key(ec.SECP256R1())
        plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        with _disk_refusals():
            write_private(self._path(key_id), self._sealer.seal(plain, self._label(key_id, purpose)))
        return key_id

    def _load(self, key_id: str, purpose: KeyPurpose) -> ec.EllipticCurvePrivateKey:
        try:
            sealed = self._path(key_id).read_bytes()
        except OSError as error:
            raise FailedPrecondition(
                Reason.KEY_UNSEALABLE,
                f"the file of key {key_id} ({purpose}) cannot be read: {error.strerror}",
                fix=f"restore it in {self._folder} from a backup",
            ) from error
        key = load_der_private_key(self._sealer.open(sealed, self._label(key_id, purpose)), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise FailedPrecondition(Reason.KEY_UNSEALABLE, f"key {key_id} is not an elliptic-curve key")
        return key

    def _label(self, key_id: str, purpose: KeyPurpose) -> KeyLabel:
        return KeyLabel(key_id=key_id, purpose=purpose, trust_domain=self._trust_domain)

    def _path(self, key_id: str) -> Path:
        return self._folder / f"{key_id}.sealed"


@contextmanager
def _disk_refusals() -> Iterator[None]:
    """A full disk is a refusal that a later try can overcome, not the end of who asked."""
    try:
        yield
    except OSError as error:
        raise Unavailable(
            Reason.STORE_UNAVAILABLE,
            f"the folder of keys does not take this now: {error.strerror}",
            fix="look at the disk of the server",
        ) from error
