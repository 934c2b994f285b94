"""What `citadel-cli vault check` asks: Vault itself, logged in as the server would be."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ca.keys.transit.sealer import is_sealed_by_vault
from ca.settings import ServerSettings
from ca.store.database import Database
from ca.store.sealed_keys import all_sealed
from ca.vault_check.gather import gather, health_of
from ca.vault_check.rules import findings
from citadel.clock import Clock
from citadel.errors import CitadelError, Reason, Unavailable
from citadel.finding import Finding
from cli.server_vault import new_client


async def look(settings: ServerSettings, clock: Clock) -> Sequence[Finding]:
    """Everything that was found, in the order in which to read it. Raises `InvalidArgument` (`config_invalid`)."""
    assert settings.vault is not None  # noqa: S101 - for the type checker: there is nothing to look at otherwise
    anybody, _ = new_client(settings.vault.model_copy(update={"namespace": None}), clock)
    client, login = new_client(settings.vault, clock)
    from ca.vault.logins import connect  # noqa: PLC0415 - it needs a library that is an extra

    async def log_in() -> None:
        await connect(client, login)
        client.token = await login.token(client)

    try:
        facts = await gather(
            settings,
            client,
            health=health_of(anybody, clock=clock),
            log_in=log_in,
            sealed=lambda: _sealed_by_vault(settings),
        )
        if client.token is not None and login.makes_tokens:
            with suppress(CitadelError):  # it ends by itself too
                await client.revoke(client.token)
    finally:
        for each in (anybody, client):
            each.close()
    return findings(facts, settings, now=clock.now())


async def _sealed_by_vault(settings: ServerSettings) -> bytes | None:
    """A key on record that Vault sealed. Raises `Unavailable` where that cannot be looked at from here."""
    if settings.keys_in_database:
        kind, _, path = settings.database_url.partition(":///")
        if kind.startswith("sqlite") and not await asyncio.to_thread(Path(path).exists):
            return None  # and opening it would make it
        database = Database.open(settings.database_url)
        try:
            return next(filter(is_sealed_by_vault, await all_sealed(database)), None)
        finally:
            await database.close()
    return await asyncio.to_thread(_newest_in, settings.data_dir / "keys")


def _newest_in(folder: Path) -> bytes | None:
    try:
        files = sorted(folder.glob("*.sealed"), key=lambda each: each.stat().st_mtime, reverse=True)
        return next((sealed for each in files if is_sealed_by_vault(sealed := each.read_bytes())), None)
    except OSError as error:
        raise Unavailable(Reason.STORE_UNAVAILABLE, f"{folder} cannot be read: {error.strerror}") from error
