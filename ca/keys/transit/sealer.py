"""Sealing with a key in Transit: each content has a data key of its own, which Vault wraps.

The content itself never goes there: a private key is not Vault's to see, and a few bytes are quick to unwrap.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

import structlog

from ca.keys.sealing import Box, KeyLabel, KeyPurpose
from ca.keys.transit.key import key_lost
from ca.vault.ports import Vault
from citadel.errors import CitadelError, FailedPrecondition, Reason, Unavailable

_log = structlog.get_logger(__name__)

_FIX: Final = "set keys.vault_seal to the key that seals, or restore that one from a backup of Vault"
_BITS: Final = 256
_FORM: Final = b"citadel-vault-seal:1\n"  # what a key-encryption key sealed begins with 12 bytes by chance


def is_sealed_by_vault(sealed: bytes) -> bool:
    """Whether `VaultSealer` made this."""
    return sealed.startswith(_FORM)


def data_key_of(sealed: bytes) -> str:
    """The data key of what `VaultSealer` made, as Vault wrapped it."""
    return sealed.removeprefix(_FORM).partition(b"\n")[0].decode("ascii", "replace")


class VaultSealer:
    """Fulfils `ca.keys.manager.Sealer` with the key `key` of the Transit secrets engine at `mount`.

    Data keys are kept once they were used: what was opened while Vault was there can be opened while it is away.
    """

    def __init__(self, *, vault: Vault, mount: str, key: str) -> None:
        self._vault = vault
        self._mount = mount
        self._key = key
        self._boxes: dict[bytes, Box] = {}
        self.lost: CitadelError | None = None  # why Vault does not unwrap any more, until it does again

    def __repr__(self) -> str:
        return f"VaultSealer({self._mount}/{self._key})"

    async def seal(self, plaintext: bytes, label: KeyLabel) -> bytes:
        data = await self._ask("datakey/plaintext", {"bits": _BITS})
        try:
            wrapped = str(data["ciphertext"]).encode("ascii")
            box = _box(data["plaintext"])
        except (KeyError, UnicodeEncodeError) as error:
            raise Unavailable(Reason.VAULT_REFUSED, "what Vault answered is no data key") from error
        if label.purpose is not KeyPurpose.BACKUP:  # which is never opened here
            self._boxes[wrapped] = box
        return _FORM + wrapped + b"\n" + box.seal(plaintext, _bound(label, wrapped))

    async def open(self, sealed: bytes, label: KeyLabel) -> bytes:
        wrapped, _, content = sealed.removeprefix(_FORM).partition(b"\n")
        try:
            return (await self._opened(wrapped)).open(content, _bound(label, wrapped))
        except ValueError as error:
            raise self._not_ours(label) from error
        except Unavailable as error:
            if error.reason is Reason.VAULT_REFUSED:  # the key is there, and did not wrap this
                raise self._not_ours(label) from error
            raise

    async def _opened(self, wrapped: bytes) -> Box:
        if wrapped not in self._boxes:
            data = await self._ask("decrypt", {"ciphertext": wrapped.decode("ascii")})
            self._boxes[wrapped] = _box(data.get("plaintext"))
        return self._boxes[wrapped]

    async def _ask(self, verb: str, request: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = await self._vault.write(f"{self._mount}/{verb}/{self._key}", request)
        except Unavailable as error:
            if error.reason is Reason.VAULT_REFUSED:
                await self._check_key(str(request.get("ciphertext", "")))
            raise
        self.lost = None
        return dict(answer.data)

    async def _check_key(self, wrapped: str) -> None:
        """Raises `FailedPrecondition` (`vault_key_lost`) where the key, or the version that wrapped this, is gone."""
        path = f"{self._mount}/keys/{self._key}"
        try:
            data = (await self._vault.read(path)).data
        except Unavailable as error:
            if error.reason is Reason.VAULT_NOT_FOUND:
                raise self._is_lost(path, "is not in Vault") from error
            return  # it is not known, and what Vault said before stands
        version = wrapped.removeprefix("vault:v").partition(":")[0]
        if data.get("soft_deleted"):
            raise self._is_lost(path, "was deleted, and can still be restored")
        versions = data.get("keys")
        if version.isdecimal() and isinstance(versions, dict) and version not in versions:
            raise self._is_lost(path, f"may no longer be used in its version {version}: lower min_decryption_version")

    def _is_lost(self, path: str, how: str) -> CitadelError:
        lost = key_lost(path, how)
        if self.lost is None:
            _log.error("the key in Vault that seals is lost: nothing is opened or sealed by it", key=path, why=how)
        self.lost = FailedPrecondition(lost.reason, lost.message, fix=_FIX)
        return self.lost

    def _not_ours(self, label: KeyLabel) -> CitadelError:
        return FailedPrecondition(
            Reason.KEY_UNSEALABLE,
            f"key {label.key_id} ({label.purpose}) cannot be opened: not sealed with {self._key} at {self._mount}, or a"
            " changed file",
            fix="set keys.vault_seal to the key in Vault that sealed it, or restore the file",
        )


def _bound(label: KeyLabel, wrapped: bytes) -> bytes:
    """What is authenticated with the content: Vault unwraps more than one way of writing a data key."""
    return label.to_bytes() + b"\n" + wrapped


def _box(text: Any) -> Box:
    """Raises `Unavailable` (`vault_refused`) for what is no data key."""
    try:
        return Box(base64.b64decode(str(text), validate=True))
    except (binascii.Error, ValueError) as error:
        raise Unavailable(Reason.VAULT_REFUSED, "what Vault answered is no data key") from error
