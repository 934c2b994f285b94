"""The token: had by a log-in, renewed in time, and replaced where that is no longer possible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from ca.vault.client import VaultClient
from ca.vault.grant import Grant
from ca.vault.logins import Login, connect
from citadel.clock import Clock
from citadel.errors import CitadelError, Reason, Unavailable

# Vault itself cannot be asked, whatever token one has.
AWAY: Final = frozenset({Reason.VAULT_UNAVAILABLE, Reason.VAULT_UNTRUSTED})
LOOK_SECONDS: Final = 30.0  # between looks, so that trouble is known before something depends on the token


class TokenKeeper:
    """One caller at a time. `acts` counts what was done, and how it ended."""

    def __init__(
        self,
        *,
        client: VaultClient,
        login: Login,
        clock: Clock,
        draw: Callable[[], float],
        acts: Counter[tuple[str, str]],
    ) -> None:
        self._client = client
        self._login = login
        self._clock = clock
        self._draw = draw
        self._acts = acts
        self._grant: Grant | None = None
        self._is_untrusted = False
        self.is_in_doubt = False  # whether the token in use may not be looked at: it has ended, or the policy is short
        self.ending: CitadelError | None = None  # why the token in use will not be renewed, and when it ends

    @property
    def held(self) -> Grant | None:
        """The token in use, while it lasts."""
        if self._grant is not None and self._grant.has_ended(self._clock.monotonic()):
            return None
        return self._grant

    async def keep(self) -> None:
        """Look at the token, renew it or log in, as is due. Raises `Unavailable`; what is held stays where it can."""
        if self._is_untrusted:
            await connect(self._client, self._login)  # by another `ca_file`, where somebody has put one there
        try:
            await self._as_is_due()
        except Unavailable as error:
            self._is_untrusted = error.reason is Reason.VAULT_UNTRUSTED
            raise
        self._is_untrusted = False

    async def give_back(self) -> None:
        """Make an end of a token that was made for this server alone."""
        held, self._grant, self._client.token = self.held, None, None
        if held is not None and self._login.makes_tokens:
            await self._client.revoke(held.token)

    async def _as_is_due(self) -> None:
        held, now = self.held, self._clock.monotonic()
        if held is None:
            await self._log_in(None)
        elif held.is_due(now):
            await self._renew(held)
        else:
            await self._look(held)

    async def _look(self, held: Grant) -> None:
        try:
            found = await self._client.look_up(held.token)
        except Unavailable as error:
            if error.reason is not Reason.VAULT_DENIED:
                raise
            # Vault does not know it any more, or nobody may look at tokens, in which case it may be all there is.
            self.is_in_doubt = True
            await self._log_in(None)
        else:
            self.is_in_doubt = False
            self._grant = held.seen(found, now=self._clock.monotonic())

    async def _renew(self, held: Grant) -> None:
        """A new lease, or a new token where this one gets none or not as long a one."""
        if held.is_renewable:
            try:
                lease = await self._client.renew(held.token)
            except Unavailable as error:
                self._acts["renewal", error.reason.value] += 1
                if error.reason in AWAY:
                    raise
            else:
                self._acts["renewal", "ok"] += 1
                renewed = held.renewed(lease, now=self._clock.monotonic(), draw=self._draw())
                if not held.has_shrunk(lease):
                    self._grant, self.ending = renewed, None
                    return
                self._grant = held = replace(renewed, due=held.due)
        await self._log_in(held)

    async def _log_in(self, held: Grant | None) -> None:
        """Another token than `held`, which stays in use where there is none."""
        try:
            await connect(self._client, self._login)
            token = await self._login.token(self._client)
            found = await self._found(token)
        except CitadelError as error:
            self._acts["login", error.reason.value] += 1
            raise
        self._acts["login", "ok"] += 1
        now = self._clock.monotonic()
        fresh = Grant.of(token, found, now=now, draw=self._draw())
        if held is None or held.token != token:
            self.ending = None
        else:  # nobody has put another one there yet
            # What is left of it is no lease: measured by that, the next renewal would be as long as it should.
            lease = fresh.lease if found.get("period") else held.lease
            fresh = replace(fresh, lease=lease, due=now + LOOK_SECONDS)
            self.ending = self._that_it_ends(fresh.left(now))
        self._grant, self._client.token = fresh, token
        self.is_in_doubt = False

    async def _found(self, token: str) -> Mapping[str, Any]:
        """What Vault knows of a token that nobody has used yet."""
        try:
            return await self._client.look_up(token)
        except Unavailable as error:
            if error.reason is not Reason.VAULT_DENIED:
                raise
            if self._login.makes_tokens:  # it was made a moment ago
                with suppress(Unavailable):
                    await self._client.revoke(token)
                raise Unavailable(error.reason, error.message, fix="let the role have the policy `default`") from None
            raise Unavailable(
                Reason.VAULT_LOGIN_REFUSED,
                f"Vault does not take {self._login.shows}: it has ended, was revoked, or may not look at itself",
                fix="put another one there",
            ) from None

    def _that_it_ends(self, left: float) -> CitadelError:
        ends = self._clock.now() + timedelta(seconds=left)
        return Unavailable(
            Reason.VAULT_LOGIN_REFUSED,
            f"{self._login.shows} cannot be renewed, and ends at {ends.isoformat(timespec='seconds')}",
            fix="put another one there",
        )
