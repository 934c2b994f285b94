"""Asks Vault for everything that the rules look at, and changes nothing there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

from cryptography import x509

from ca.settings import ServerSettings, VaultSealSettings, VaultTransitSettings
from ca.upstream.settings import VaultPkiSettings
from ca.vault.ports import Vault
from ca.vault_check.access import probes
from ca.vault_check.facts import Health, Issuer, Key, Keys, Login, Mount, Pki, Seal, Seen, VaultFacts
from ca.vault_check.pki import signing_issuer
from citadel.errors import CitadelError, Reason, Unavailable

T = TypeVar("T")


async def gather(settings: ServerSettings, vault: Vault, *, health: Callable[[], Awaitable[Health]]) -> VaultFacts:
    """All facts about what these settings use. `vault` logs in when it is first asked."""
    healthy = await _seen(health())
    if isinstance(healthy, CitadelError) or healthy.is_sealed or not healthy.is_initialized:
        return VaultFacts(health=healthy)
    login = await _seen(_login(vault))
    if isinstance(login, CitadelError) and login.reason is not Reason.VAULT_DENIED:
        return VaultFacts(health=healthy, login=login)
    named, transit, seal = settings.upstream.vault, settings.keys.vault_transit, settings.keys.vault_seal
    return VaultFacts(
        health=healthy,
        login=login,
        allowed=await _seen(_allowed(vault, probes(settings))),
        pki=await _pki(vault, named) if named is not None else None,
        transit=await _keys(vault, transit) if transit is not None else None,
        seal=await _seal(vault, seal) if seal is not None else None,
    )


async def _seen(asked: Awaitable[T]) -> Seen[T]:
    """What was asked for, or why it cannot be had."""
    try:
        return await asked
    except CitadelError as error:
        return error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Unavailable(Reason.VAULT_REFUSED, f"what Vault answers cannot be read: {type(error).__name__}")


async def _login(vault: Vault) -> Login:
    said = (await vault.read("auth/token/lookup-self")).data
    seconds = int(said["ttl"])
    return Login(
        policies=tuple(dict.fromkeys([*(said.get("policies") or ()), *(said.get("identity_policies") or ())])),
        lease=timedelta(seconds=seconds) if seconds else None,
        is_renewable=bool(said.get("renewable")),
        uses=int(said.get("num_uses") or 0),
    )


async def _allowed(vault: Vault, paths: tuple[str, ...]) -> Mapping[str, frozenset[str]]:
    said = (await vault.write("sys/capabilities-self", {"paths": list(paths)})).data
    return {path: frozenset(said[path]) for path in paths}


async def _mount(vault: Vault, path: str) -> Mount:
    # What Vault's own pages ask: it needs no rule in the policy, only one for something below the mount.
    said = (await vault.read(f"sys/internal/ui/mounts/{path}")).data
    seconds = int((said.get("config") or {}).get("max_lease_ttl") or 0)
    return Mount(engine=str(said["type"]), longest=timedelta(seconds=seconds) if seconds else None)


async def _pki(vault: Vault, named: VaultPkiSettings) -> Pki:
    mount, issuers = await asyncio.gather(_seen(_mount(vault, named.mount)), _seen(_issuers(vault, named.mount)))
    nobody = Unavailable(Reason.VAULT_NOT_FOUND, "there is no issuer")
    usages: Seen[frozenset[str]] = nobody
    if not isinstance(issuers, CitadelError) and (issuer := signing_issuer(issuers, named.issuer)) is not None:
        # By the name in the settings, as the policy has it.
        usages = await _seen(_usages(vault, f"{named.mount}/issuer/{named.issuer or issuer.id}"))
    return Pki(mount=mount, issuers=issuers, usages=usages)


async def _issuers(vault: Vault, mount: str) -> tuple[Issuer, ...]:
    try:
        said = (await vault.list(f"{mount}/issuers")).data
    except Unavailable as error:
        if error.reason is Reason.VAULT_NOT_FOUND:  # what Vault says of a list of none
            return ()
        raise
    about = said.get("key_info") or {}
    return tuple(await asyncio.gather(*(_issuer(vault, mount, each, about.get(each) or {}) for each in said["keys"])))


async def _issuer(vault: Vault, mount: str, issuer_id: str, about: Mapping[str, Any]) -> Issuer:
    said = (await vault.read(f"{mount}/issuer/{issuer_id}/json")).data
    return Issuer(
        id=issuer_id,
        name=str(about.get("issuer_name") or ""),
        is_default=bool(about.get("is_default")),
        certificate=x509.load_pem_x509_certificate(str(said["certificate"]).encode()),
    )


async def _usages(vault: Vault, path: str) -> frozenset[str]:
    return frozenset(str((await vault.read(path)).data["usage"]).split(","))


async def _keys(vault: Vault, named: VaultTransitSettings) -> Keys:
    return Keys(mount=await _seen(_mount(vault, named.mount)), names=await _seen(_names(vault, f"{named.mount}/keys")))


async def _names(vault: Vault, path: str) -> tuple[str, ...]:
    try:
        return tuple((await vault.list(path)).data["keys"])
    except Unavailable as error:
        if error.reason is Reason.VAULT_NOT_FOUND:  # as above
            return ()
        raise


async def _seal(vault: Vault, named: VaultSealSettings) -> Seal:
    mount, key = _mount(vault, named.mount), _key(vault, f"{named.mount}/keys/{named.key}")
    return Seal(mount=await _seen(mount), key=await _seen(key))


async def _key(vault: Vault, path: str) -> Key:
    said = (await vault.read(path)).data
    return Key(
        kind=str(said["type"]),
        is_exportable=bool(said.get("exportable")),
        has_plaintext_backup=bool(said.get("allow_plaintext_backup")),
    )
