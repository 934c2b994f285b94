"""Asks Vault for everything that the rules look at, and changes nothing there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

from ca.keys.settings import VaultSealSettings, VaultTransitSettings
from ca.keys.transit.sealer import data_key_of
from ca.settings import ServerSettings
from ca.upstream.settings import VaultPkiSettings
from ca.upstream.vault.engine import PkiEngine
from ca.vault.ports import Vault
from ca.vault_check.access import probes
from ca.vault_check.facts import Health, Key, Keys, Login, Mount, Pki, Seal, Seen, VaultFacts
from citadel.clock import Clock
from citadel.errors import CitadelError, Reason, Unavailable

T = TypeVar("T")


class AsksHealth(Protocol):
    """What speaks to Vault."""

    async def health(self) -> Mapping[str, Any]:
        """As `sys/health` says it, sealed or not."""
        ...


async def gather(
    settings: ServerSettings,
    vault: Vault,
    *,
    health: Awaitable[Health],
    log_in: Callable[[], Awaitable[None]],
    sealed: Callable[[], Awaitable[bytes | None]],
) -> VaultFacts:
    """All facts about what these settings use. Once `log_in` has returned, `vault` is called with a token.

    `sealed` is a key on record that Vault sealed; None where there is none.
    """
    healthy = await _seen(health)
    if isinstance(healthy, CitadelError) or healthy.is_sealed or not healthy.is_initialized:
        return VaultFacts(health=healthy)
    refused = await _seen(log_in())
    if isinstance(refused, CitadelError):
        return VaultFacts(health=healthy, login=refused)
    login, allowed = await _seen(_login(vault)), await _seen(_allowed(vault, probes(settings)))
    if isinstance(login, CitadelError) and isinstance(allowed, CitadelError):
        return VaultFacts(health=healthy, login=login, allowed=allowed)
    named, transit, seal = settings.upstream.vault, settings.keys.vault_transit, settings.keys.vault_seal
    return VaultFacts(
        health=healthy,
        login=login,
        allowed=allowed,
        pki=await _pki(vault, named) if named is not None else None,
        transit=await _keys(vault, transit) if transit is not None else None,
        seal=await _seal(vault, seal, await _seen(sealed())) if seal is not None else None,
    )


async def health_of(client: AsksHealth, *, clock: Clock) -> Health:
    """What Vault says of itself to anybody."""
    begun = clock.now()
    said = await client.health()
    asked_at = begun + (clock.now() - begun) / 2
    try:
        return Health(
            version=str(said["version"]),
            is_initialized=bool(said["initialized"]),
            is_sealed=bool(said["sealed"]),
            time=datetime.fromtimestamp(int(said["server_time_utc"]), UTC),
            asked_at=asked_at,
        )
    except KeyError:
        raise Unavailable(Reason.VAULT_REFUSED, "what answers at vault.address is not Vault") from None


async def _seen(asked: Awaitable[T]) -> Seen[T]:
    """What was asked for, or why it cannot be had."""
    try:
        return await asked
    except CitadelError as error:
        return error


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
    return {path: frozenset(said.get(path) or ()) for path in paths}


async def _mount(vault: Vault, path: str) -> Mount:
    # What Vault's own pages ask: it needs no rule in the policy, only one for something below the mount.
    said = (await vault.read(f"sys/internal/ui/mounts/{path}")).data
    seconds = int((said.get("config") or {}).get("max_lease_ttl") or 0)
    return Mount(engine=str(said.get("type")), longest=timedelta(seconds=seconds) if seconds else None)


async def _pki(vault: Vault, named: VaultPkiSettings) -> Pki:
    engine = PkiEngine(vault, mount=named.mount)
    leading = await _seen(engine.leading(named.issuer))
    return Pki(
        mount=await _seen(_mount(vault, named.mount)),
        issuers=await _seen(engine.issuers()),
        leading=leading,
        usages=leading if isinstance(leading, CitadelError) else await _seen(_usages(vault, named.mount, leading)),
    )


async def _usages(vault: Vault, mount: str, issuer_id: str) -> frozenset[str]:
    return frozenset(str((await vault.read(f"{mount}/issuer/{issuer_id}")).data.get("usage")).split(","))


async def _keys(vault: Vault, named: VaultTransitSettings) -> Keys:
    return Keys(mount=await _seen(_mount(vault, named.mount)), names=await _seen(_names(vault, f"{named.mount}/keys")))


async def _names(vault: Vault, path: str) -> tuple[str, ...]:
    try:
        return tuple((await vault.list(path)).data.get("keys") or ())
    except Unavailable as error:
        if error.reason is Reason.VAULT_NOT_FOUND:  # what Vault says of a list of none
            return ()
        raise


async def _seal(vault: Vault, named: VaultSealSettings, sealed: Seen[bytes | None]) -> Seal:
    mount, key = _mount(vault, named.mount), _key(vault, f"{named.mount}/keys/{named.key}")
    opened: CitadelError | None = None
    if isinstance(sealed, bytes):
        tried = await _seen(vault.write(f"{named.mount}/decrypt/{named.key}", {"ciphertext": data_key_of(sealed)}))
        opened = tried if isinstance(tried, CitadelError) else None
    return Seal(
        mount=await _seen(mount),
        key=await _seen(key),
        has_sealed=isinstance(sealed, bytes),
        opened=opened,
    )


async def _key(vault: Vault, path: str) -> Key:
    said = (await vault.read(path)).data
    return Key(
        kind=str(said.get("type")),
        is_exportable=bool(said.get("exportable")),
        has_plaintext_backup=bool(said.get("allow_plaintext_backup")),
    )
