"""What `citadel-cli vault check` asks: Vault itself, logged in as the server would be."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from ca.settings import ServerSettings
from ca.vault_check.finding import Finding
from ca.vault_check.gather import gather, health_of
from ca.vault_check.rules import findings
from citadel.clock import Clock
from citadel.errors import CitadelError
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
        facts = await gather(settings, client, health=health_of(anybody, clock=clock), log_in=log_in)
        if client.token is not None and login.makes_tokens:
            with suppress(CitadelError):  # it ends by itself too
                await client.revoke(client.token)
    finally:
        for each in (anybody, client):
            each.close()
    return findings(facts, settings, now=clock.now())
