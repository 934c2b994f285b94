"""One connection to Vault, through hvac, off the loop: calls by path, and what goes wrong with them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import requests
import urllib3
from hvac.adapters import RawAdapter

from ca.vault.answers import seconds_in
from ca.vault.connections import Certificate, Connections, tls_of
from ca.vault.ports import Answer
from ca.vault.settings import VaultSettings
from ca.vault.threads import Threads
from ca.vault.troubles import taken, trouble_of_error
from citadel.errors import CitadelError, InvalidArgument, Reason, Unavailable

_AT_A_TIME: Final = 8  # no more than requests keeps connections for, which is 10
_SECRET: Final = ("secret_id", "jwt")  # of what a log-in sends
# Otherwise its status says how it is.
_HEALTH: Final = "sys/health?standbyok=true&perfstandbyok=true&" + "&".join(
    f"{each}code=200" for each in ("sealed", "uninit", "drsecondary")
)


class VaultClient:
    """Calls by path with the token that `token` holds. `close` ends its connections.

    Timeouts of sockets are between two bytes: who sends one now and then holds a thread, but nobody who waits for it.

    hvac's own client would take address, token and certificate from the environment or the home where it is given none;
    what is used here is the part of it that speaks.
    """

    def __init__(self, settings: VaultSettings) -> None:
        """Raises `InvalidArgument` (`config_invalid`) where the file with Vault's authority cannot be used."""
        self.token: str | None = None
        self._settings = settings
        self._bound = settings.timeout.total_seconds()
        self._connections = self._new_connections(None)
        self._threads = Threads(at_a_time=_AT_A_TIME)

    async def read(self, path: str) -> Answer:
        return _answer(await self._ask("GET", path, token=self.token))

    async def list(self, path: str) -> Answer:
        return _answer(await self._ask("LIST", path, token=self.token))

    async def write(self, path: str, data: Mapping[str, Any]) -> Answer:
        return _answer(await self._ask("POST", path, data, token=self.token))

    async def delete(self, path: str) -> None:
        await self._ask("DELETE", path, token=self.token)

    def trouble(self) -> CitadelError | None:
        """What a session remembers, and this does not."""
        return None

    async def health(self) -> Mapping[str, Any]:
        """What Vault says of itself to anybody, also where it is sealed. No namespace has that."""
        return await self._ask("GET", _HEALTH, token=None)

    async def log_in(self, path: str, data: Mapping[str, str]) -> str:
        """The token that the auth method at `path` gives for `data`."""
        return str(_auth(await self._ask("POST", path, data, token=None), path)["client_token"])

    async def look_up(self, token: str) -> Mapping[str, Any]:
        """What Vault knows of this token."""
        found = _answer(await self._ask("GET", "auth/token/lookup-self", token=token)).data
        return {**found, "ttl": seconds_in(found, "ttl")}

    async def renew(self, token: str) -> float:
        """A new lease for this token, in seconds."""
        path = "auth/token/renew-self"
        return seconds_in(_auth(await self._ask("POST", path, {}, token=token), path), "lease_duration")

    async def revoke(self, token: str) -> None:
        """Make an end of this token."""
        await self._ask("POST", "auth/token/revoke-self", {}, token=token)

    async def reconnect(self, certificate: Certificate | None = None) -> None:
        """Go over to new connections, on which a `certificate` with its key is shown, with the files as they are now.

        Raises `InvalidArgument` (`config_invalid`) where they cannot be used.
        """
        # Those before end with the calls that are still under way on them.
        self._connections = await asyncio.to_thread(self._new_connections, certificate)

    def check(self, certificate: Certificate | None) -> None:
        """Look at the files of TLS without going anywhere. Raises as above."""
        self._new_connections(certificate).close()

    def close(self) -> None:
        """End the connections; what is under way ends with its time."""
        self._connections.close()

    def _new_connections(self, certificate: Certificate | None) -> Connections:
        ca_file = self._settings.ca_file
        try:
            return Connections(tls_of(ca_file=ca_file, certificate=certificate))
        except OSError as error:
            files = " and ".join(str(each) for each in (ca_file, *(certificate or ())) if each is not None)
            raise InvalidArgument(
                Reason.CONFIG_INVALID, f"TLS with Vault cannot use {files}: {error.strerror or error}"
            ) from error

    async def _ask(
        self, method: str, path: str, data: Mapping[str, Any] | None = None, *, token: str | None
    ) -> Mapping[str, Any]:
        """The whole answer. It is waited for as long as the settings say, whatever of it has come by then."""
        speaking: Any = RawAdapter  # its stubs know no fractions of seconds
        adapter = speaking(
            base_uri=self._settings.address,
            token=token,
            namespace=self._settings.namespace,
            timeout=self._bound,
            session=self._connections,
        )
        sent = {} if data is None else {"json": dict(data)}

        def send() -> requests.Response:
            response: requests.Response = adapter.request(method, f"/v1/{path}", raise_exception=False, **sent)
            return response

        try:
            async with asyncio.timeout(self._bound):
                response = await self._threads.run(send)
        except TimeoutError:
            raise Unavailable(Reason.VAULT_UNAVAILABLE, f"Vault did not answer within {self._bound:g} s") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            address, ca_file = self._settings.address, self._settings.ca_file
            raise trouble_of_error(
                error, address=address, ca_file=ca_file
            ) from None  # what is below holds the request, with the token
        secrets = [secret for secret in (token, *(sent.get("json", {}).get(name) for name in _SECRET)) if secret]
        return taken(response.status_code, response.content, method=method, path=path, secrets=secrets)


def _answer(answer: Mapping[str, Any]) -> Answer:
    return Answer(data=answer.get("data") or {}, warnings=tuple(answer.get("warnings") or ()))


def _auth(answer: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    auth = answer.get("auth")
    if not isinstance(auth, dict) or not isinstance(auth.get("client_token"), str):
        raise Unavailable(Reason.VAULT_REFUSED, f"Vault gives no token at `{path}`")
    return auth
