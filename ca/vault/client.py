"""One connection to Vault, through hvac, off the loop: what goes wrong there, told apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import hvac
import requests
from hvac import exceptions as said

from ca.vault.ports import Answer
from ca.vault.settings import VaultSettings
from citadel.errors import CitadelError, Reason, Unavailable

_THREADS: Final = 4  # a call that hangs until its time is over holds up no other


class VaultClient:
    """Calls by path with the token that `token` holds. `close` ends its threads."""

    def __init__(self, settings: VaultSettings) -> None:
        make: Any = hvac.Client  # its stubs know neither fractions of seconds nor a client without a token
        self._client = make(
            url=settings.address,
            namespace=settings.namespace,
            verify=str(settings.ca_file) if settings.ca_file is not None else True,
            timeout=settings.timeout.total_seconds(),
        )
        self._client.token = None  # hvac takes one from the environment or the home, where there is one
        self._threads = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="vault")

    @property
    def token(self) -> str | None:
        """What calls are made with."""
        token: str | None = self._client.token
        return token

    @token.setter
    def token(self, token: str | None) -> None:
        self._client.token = token

    async def read(self, path: str) -> Answer:
        return await self._call(path, lambda: self._client.read(path))

    async def list(self, path: str) -> Answer:
        return await self._call(path, lambda: self._client.list(path))

    async def write(self, path: str, data: Mapping[str, Any]) -> Answer:
        return await self._call(path, lambda: self._client.write_data(path, data=dict(data)) or {})

    async def delete(self, path: str) -> None:
        await self._call(path, lambda: self._client.delete(path) or {})

    def close(self) -> None:
        """End the threads; what is under way ends with its time."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _call(self, path: str, call: Callable[[], Any]) -> Answer:
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except (said.VaultError, requests.RequestException) as error:
            raise _translated(error, path) from error
        if answer is None:  # hvac's word for 404
            raise Unavailable(Reason.VAULT_NOT_FOUND, f"there is nothing at {path} in Vault")
        if isinstance(answer, requests.Response):  # an answer without content
            return Answer()
        return Answer(data=answer.get("data") or {}, warnings=tuple(answer.get("warnings") or ()))


def _translated(error: Exception, path: str) -> CitadelError:
    match error:
        case requests.exceptions.SSLError():  # which is a ConnectionError too
            return Unavailable(Reason.VAULT_UNTRUSTED, f"Vault's certificate does not verify: {error}")
        case requests.RequestException():
            return Unavailable(Reason.VAULT_UNAVAILABLE, f"Vault cannot be reached: {type(error).__name__}")
        case said.Forbidden() | said.Unauthorized():
            return Unavailable(Reason.VAULT_DENIED, f"the policy does not allow {path}")
        case said.InvalidPath():
            return Unavailable(Reason.VAULT_NOT_FOUND, f"there is nothing at {path} in Vault")
        case said.VaultDown() | said.RateLimitExceeded() | said.BadGateway() | said.VaultNotInitialized():
            return Unavailable(Reason.VAULT_UNAVAILABLE, f"Vault does not serve now: {error}")
        case _:
            return Unavailable(Reason.VAULT_REFUSED, f"Vault refuses {path}: {error}")
