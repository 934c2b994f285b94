"""The key manager that has every key in Vault."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

import structlog

from ca.keys.kinds import AuthorityKey, AuthorityPublicKey, KeyKind
from ca.keys.sealing import KeyPurpose
from ca.keys.transit.facts import TYPES, KeyFacts, same_key, type_of
from ca.keys.transit.key import TransitKey, TransitPaths, key_lost
from ca.keys.transit.naming import PURPOSES, TransitId, TransitNames, is_in_vault
from ca.keys.transit.troubles import KeyTrouble, KeyTroubles
from ca.keys.transit.wrapping import wrapped_for
from ca.vault.ports import Vault
from citadel.clock import Clock
from citadel.errors import CitadelError, FailedPrecondition, Reason, Unavailable

_log = structlog.get_logger(__name__)

# What it costs that a key does not sign: the worst first.
_MATTERS: Final = (KeyPurpose.ISSUER, KeyPurpose.JWT, KeyPurpose.ROOT, KeyPurpose.RECORDS)
_KEPT: Final[Mapping[str, Any]] = {"exportable": False, "allow_plaintext_backup": False}


class TransitKeyManager:
    """Fulfils `KeyManager` and `JwtKeyManager` of `ca.authority` with one key in Transit for each."""

    def __init__(
        self, *, vault: Vault, names: TransitNames, timeout: timedelta, clock: Clock, kind: KeyKind = KeyKind.EC_P256
    ) -> None:
        """`kind` is what the keys of authorities are that are made; `timeout` how long one answer may take."""
        self._vault = vault
        self._names = names
        self._timeout = timeout
        self._kind = kind
        self._unheard: dict[tuple[KeyPurpose, KeyKind], str] = {}  # of which Vault did not say whether it made them
        self._troubles = KeyTroubles(clock=clock)
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
        try:
            await self._vault.write(self._names.path(name, end="import"), request)
            return str(TransitId.of(unique, await self._check_new(name, purpose, wanted, key)))
        except BaseException:
            with suppress(CitadelError):  # nobody will know of it
                await self._remove(name)
            raise

    async def signer(self, key_id: str, purpose: KeyPurpose) -> TransitKey:
        name = self._names.name(TransitId.parse(key_id).unique, purpose)
        known = self._opened.get(name)
        if known is None or self._troubles.is_lost(name) or not _is_meant(key_id, known.public_key()):
            await self.look(key_id, purpose)
        return self._opened[name]

    async def look(self, key_id: str, purpose: KeyPurpose) -> None:
        """That it is in Vault as it must be; what is wrong is known as its trouble. Raises as `signer`."""
        name = self._names.name(TransitId.parse(key_id).unique, purpose)
        try:
            facts = await self._facts(name, purpose)
            if facts.public_key is None:
                raise self._lost(name, purpose, "may not be used in its first version")
            if not _is_meant(key_id, facts.public_key):
                raise self._lost(name, purpose, "is another one in Vault now")
        except CitadelError as error:
            if error.reason in (Reason.VAULT_KEY_LOST, Reason.VAULT_NOT_FOUND):
                self._troubles.failed(name, purpose, error)
            raise
        self._troubles.seen(name)
        if name not in self._opened:
            if facts.is_exportable:
                _log.warning("a key of an authority can be taken out of Vault", key=self._names.path(name))
            self._open(name, purpose, facts.public_key)

    async def jwt_signer(self, key_id: str) -> TransitKey:
        return await self.signer(key_id, KeyPurpose.JWT)

    async def delete(self, key_id: str) -> None:
        for name in self._names_of(key_id):
            try:
                await self._vault.read(self._names.path(name))
            except Unavailable as error:
                if error.reason is not Reason.VAULT_NOT_FOUND:
                    raise
            else:
                await self._remove(name)
            self._opened.pop(name, None)
            self._troubles.forget(name)

    def trouble(self, in_use: Collection[str]) -> KeyTrouble | None:
        """What is wrong with these keys, or with one that signs records; the first in the order of `_MATTERS`."""
        needed = {name for key_id in in_use if is_in_vault(key_id) for name in self._names_of(key_id)}
        found = [
            each for name, each in self._troubles.all().items() if name in needed or each.purpose is KeyPurpose.RECORDS
        ]
        return min(found, key=lambda each: _MATTERS.index(each.purpose), default=None)

    def is_lost(self, key_id: str) -> bool:
        """Whether it was gone from Vault when it was last seen."""
        return any(map(self._troubles.is_lost, self._names_of(key_id)))

    def _names_of(self, key_id: str) -> Sequence[str]:
        unique = TransitId.parse(key_id).unique
        return [self._names.name(unique, purpose) for purpose in PURPOSES]

    async def _create(self, purpose: KeyPurpose, kind: KeyKind) -> str:
        # A key of which was not heard is there by the next try: no try leaves one behind that nobody knows of.
        unique = self._unheard.pop((purpose, kind), "") or uuid4().hex
        name = self._names.name(unique, purpose)
        try:
            await self._vault.write(self._names.path(name), {**_KEPT, "type": TYPES[kind]})
            public_key = await self._check_new(name, purpose, TYPES[kind])
        except BaseException:
            self._unheard[purpose, kind] = unique
            raise
        return str(TransitId.of(unique, public_key))

    async def _check_new(
        self, name: str, purpose: KeyPurpose, wanted: str, adopted: AuthorityKey | None = None
    ) -> AuthorityPublicKey:
        """That it became what it was to be; that it is there is known as well from now on."""
        facts = KeyFacts.parse((await self._vault.read(self._names.path(name))).data)
        trouble = facts.trouble_as_new(wanted)
        if adopted and facts.public_key and not same_key(facts.public_key, adopted.public_key()):
            trouble = "Vault holds another key than it was given"
        if trouble or facts.public_key is None:
            raise Unavailable(Reason.VAULT_REFUSED, f"{trouble}, at {self._names.path(name)}")
        self._open(name, purpose, facts.public_key)
        return facts.public_key

    async def _remove(self, name: str) -> None:
        await self._vault.write(self._names.path(name, end="config"), {"deletion_allowed": True})
        await self._vault.delete(self._names.path(name))

    async def _facts(self, name: str, purpose: KeyPurpose) -> KeyFacts:
        try:
            return KeyFacts.parse((await self._vault.read(self._names.path(name))).data)
        except Unavailable as error:
            if error.reason is not Reason.VAULT_NOT_FOUND:
                raise
        await self._check_mount(name)
        raise self._lost(name, purpose, "is not in Vault")

    async def _check_mount(self, name: str) -> None:
        """Raises `Unavailable` (`vault_not_found`) where nothing is mounted: no key is found there either."""
        try:
            await self._vault.write(self._names.path(name, "sign"), {"input": ""})
        except Unavailable as error:
            if error.reason is not Reason.VAULT_REFUSED:  # that it has no such key
                raise

    def _open(self, name: str, purpose: KeyPurpose, public_key: AuthorityPublicKey) -> None:
        def note(error: CitadelError | None) -> None:
            if error is None:
                self._troubles.worked(name)
            else:
                self._troubles.failed(name, purpose, error)

        self._opened[name] = TransitKey(
            TransitPaths(key=self._names.path(name), sign=self._names.path(name, "sign"), purpose=purpose),
            public_key,
            vault=self._vault,
            timeout=self._timeout,
            on_outcome=note,
        )

    def _lost(self, name: str, purpose: KeyPurpose, how: str) -> FailedPrecondition:
        """For those who open a key: waiting brings it back no more than a file that is gone."""
        error = key_lost(self._names.path(name), how, purpose)
        return FailedPrecondition(error.reason, error.message, fix=error.fix)


def _is_meant(key_id: str, public_key: AuthorityPublicKey) -> bool:
    meant = TransitId.parse(key_id)
    return TransitId.of(meant.unique, public_key) == meant
