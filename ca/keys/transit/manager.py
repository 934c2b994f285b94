"""The key manager that has every key in Vault."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

import structlog

from ca.keys.kinds import AuthorityKey, AuthorityPublicKey, KeyKind
from ca.keys.sealing import KeyPurpose
from ca.keys.transit.facts import TYPES, KeyFacts, same_key, type_of
from ca.keys.transit.key import TransitKey, TransitPaths, key_lost
from ca.keys.transit.naming import PURPOSES, TransitId, TransitNames
from ca.keys.transit.wrapping import wrapped_for
from ca.vault.ports import Vault
from citadel.errors import CitadelError, FailedPrecondition, Reason, Unavailable

_log = structlog.get_logger(__name__)

_KEPT: Final[Mapping[str, Any]] = {"exportable": False, "allow_plaintext_backup": False}


class TransitKeyManager:
    """Fulfils `KeyManager` and `JwtKeyManager` of `ca.authority` with one key in Transit for each."""

    def __init__(
        self, *, vault: Vault, names: TransitNames, timeout: timedelta, kind: KeyKind = KeyKind.EC_P256
    ) -> None:
        """`kind` is what the keys of authorities are that are made; `timeout` how long one answer may take."""
        self._vault = vault
        self._names = names
        self._timeout = timeout
        self._kind = kind
        self._unheard: dict[tuple[KeyPurpose, KeyKind], str] = {}  # of which Vault did not say whether it made them
        self._opened: dict[str, TransitKey] = {}  # by name: one that was opened signs without being looked up again

    async def create(self, purpose: KeyPurpose) -> str:
        is_authority = purpose in (KeyPurpose.ROOT, KeyPurpose.ISSUER)
        return await self._create(purpose, self._kind if is_authority else KeyKind.EC_P256)

    async def create_jwt(self, kind: KeyKind) -> str:
        return await self._create(KeyPurpose.JWT, kind)

    async def adopt(self, key: AuthorityKey, purpose: KeyPurpose) -> str:
        wanted, unique = type_of(key), uuid4().hex
        name = self._names.name(unique, purpose)
        receiver = str((await self._vault.read(self._names.path("", "wrapping_key"))).data.get("public_key"))
        wrapped = await asyncio.to_thread(wrapped_for, receiver, key)
        request = {**_KEPT, "type": wanted, "hash_function": "SHA256", "ciphertext": wrapped}
        await self._vault.write(self._names.path(name, end="import"), request)
        return str(TransitId.of(unique, await self._check_new(name, wanted, key)))

    async def signer(self, key_id: str, purpose: KeyPurpose) -> TransitKey:
        meant = TransitId.parse(key_id)
        name = self._names.name(meant.unique, purpose)
        known = self._opened.get(name)
        if known is None or known.lost is not None:
            known = self._open(name, await self._facts(name))
        if TransitId.of(meant.unique, known.public_key()) != meant:
            raise _lost(self._names.path(name), "is another one in Vault now")
        return known

    async def jwt_signer(self, key_id: str) -> TransitKey:
        return await self.signer(key_id, KeyPurpose.JWT)

    async def delete(self, key_id: str) -> None:
        unique = TransitId.parse(key_id).unique
        for name in (self._names.name(unique, purpose) for purpose in PURPOSES):
            try:
                await self._vault.read(self._names.path(name))
            except Unavailable as error:
                if error.reason is not Reason.VAULT_NOT_FOUND:
                    raise
            else:
                await self._vault.write(self._names.path(name, end="config"), {"deletion_allowed": True})
                await self._vault.delete(self._names.path(name))
            self._opened.pop(name, None)

    def trouble(self) -> CitadelError | None:
        """That a key was lost which signs, or did."""
        return next((key.lost for key in self._opened.values() if key.lost is not None), None)

    async def _create(self, purpose: KeyPurpose, kind: KeyKind) -> str:
        # A key that took too long to make is there by the next try: no try leaves one behind that nobody knows of.
        unique = self._unheard.pop((purpose, kind), "") or uuid4().hex
        name = self._names.name(unique, purpose)
        try:
            await self._vault.write(self._names.path(name), {**_KEPT, "type": TYPES[kind]})
            public_key = await self._check_new(name, TYPES[kind])
        except Unavailable as error:
            if error.reason is Reason.VAULT_UNAVAILABLE:
                self._unheard[purpose, kind] = unique
            raise
        return str(TransitId.of(unique, public_key))

    async def _check_new(self, name: str, wanted: str, adopted: AuthorityKey | None = None) -> AuthorityPublicKey:
        """That it became what it was to be; that it is there is known as well from now on."""
        facts = KeyFacts.parse((await self._vault.read(self._names.path(name))).data)
        trouble = facts.trouble_as_new(wanted)
        if adopted and facts.public_key and not same_key(facts.public_key, adopted.public_key()):
            trouble = "Vault holds another key than it was given"
        if trouble:
            raise Unavailable(Reason.VAULT_REFUSED, f"{trouble}, at {self._names.path(name)}")
        return self._open(name, facts).public_key()

    async def _facts(self, name: str) -> KeyFacts:
        try:
            return KeyFacts.parse((await self._vault.read(self._names.path(name))).data)
        except Unavailable as error:
            if error.reason is not Reason.VAULT_NOT_FOUND:
                raise
        await self._check_mount(name)
        raise _lost(self._names.path(name), "is not in Vault")

    async def _check_mount(self, name: str) -> None:
        """Raises `Unavailable` (`vault_not_found`) where nothing is mounted: no key is found there either."""
        try:
            await self._vault.write(self._names.path(name, "sign"), {"input": ""})
        except Unavailable as error:
            if error.reason is not Reason.VAULT_REFUSED:  # that it has no such key
                raise

    def _open(self, name: str, facts: KeyFacts) -> TransitKey:
        path = self._names.path(name)
        if facts.public_key is None:
            raise _lost(path, "may not be used in its first version")
        if facts.is_exportable:
            _log.warning("a key of an authority can be taken out of Vault", key=path)
        paths = TransitPaths(key=path, sign=self._names.path(name, "sign"))
        self._opened[name] = TransitKey(paths, facts.public_key, vault=self._vault, timeout=self._timeout)
        return self._opened[name]


def _lost(path: str, how: str) -> FailedPrecondition:
    """For those who open a key: waiting brings it back no more than a file that is gone."""
    error = key_lost(path, how)
    return FailedPrecondition(error.reason, error.message, fix=error.fix)
