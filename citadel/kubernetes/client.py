"""The API server, through the official client's connection, in plain JSON: its thousand models cost time and memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, cast

import aiohttp
from kubernetes.aio.client import ApiClient
from kubernetes.aio.config import ConfigException

from citadel.errors import InvalidArgument, NotFound, Reason, Unavailable
from citadel.kubernetes.answers import AnswerTooLong, events_of, object_of, page_of, refused, text_of, words_of
from citadel.kubernetes.ports import (
    FIELD_MANAGER,
    ApiUnavailable,
    Each,
    KubeObject,
    Listed,
    WatchEvent,
    WatchExpired,
    as_it_is,
)
from citadel.kubernetes.renewal import Renewal, renewal
from citadel.kubernetes.settings import ApiServerSettings

# Objects of a list that are read at once, as client-go's reflectors do; fewer where those were too long, at last one:
# of what etcd takes, `<` and the like become six characters each.
_AT_ONCE: Final = (500, 5, 1)
_WATCH_SECONDS: Final = 300  # after which the API server is asked to end a watch
_JSON: Final = "application/json"
_ACCEPTED: Final = f"{_JSON}, application/jwk-set+json"  # the keys of its issuer are offered as the latter alone
_APPLY: Final = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds: for a connection, for a whole answer, and for the next word of a watch.

    The API server sends bookmarks about every minute, so that silence for longer may be a connection which nobody has
    ended. Where it sends none, the watch is opened anew, which costs one call.
    """

    connect: float = 5
    answer: float = 15
    silence: float = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The most that is taken: bytes of an answer, and of a page of a list; pages and objects of a list.

    While a page is read it takes up to six times its bytes: one emoji makes each of its characters four bytes long.
    Lists are read at the same time, of several kinds and clusters.
    """

    answer: int = 8 * 1024 * 1024
    page: int = 16 * 1024 * 1024
    pages: int = 10_000
    objects: int = 500_000


_PATIENCE: Final = Patience()
_MEASURE: Final = Measure()


class KubernetesClient:
    """Fulfils `citadel.kubernetes.ports.KubernetesApi`. Lives on one event loop; `close` ends its connections.

    `renewal` says whether what opens the way there can be read anew.
    """

    def __init__(self, renewal: Renewal, *, patience: Patience = _PATIENCE, measure: Measure = _MEASURE) -> None:
        self.renewal = renewal
        self._patience = patience
        self._measure = measure
        self._for_answers = aiohttp.ClientTimeout(total=patience.answer, sock_connect=patience.connect)
        self._for_watches = aiohttp.ClientTimeout(sock_connect=patience.connect, sock_read=patience.silence)

    async def close(self) -> None:
        """End every connection."""
        await self.renewal.close()
        await asyncio.sleep(0)  # what was cut is closed by the loop's next turn

    async def get(self, path: str) -> KubeObject:
        return await self._call("GET", path)

    async def list(self, path: str, *, labels: str = "", fields: str = "", each: Each = as_it_is) -> Listed:
        query = _selectors(labels, fields)
        # With fields few are meant: API servers know the pods of a node, but for a page of them they read all pods.
        limit = {} if fields else {"limit": str(_AT_ONCE[0])}
        try:
            return await self._pages(path, limit | query, each)
        except WatchExpired:  # a page could not be read in time, and the next one of this list is there no more
            return await self._pages(path, dict(query), each)

    async def _pages(self, path: str, query: dict[str, str], each: Each) -> Listed:
        items: list[Any] = []
        until: list[int] = []  # how many objects there are when more at once are tried again, for each step down
        for _ in range(self._measure.pages):
            try:
                found, meta = await self._page(path, query, each)
            except AnswerTooLong:  # whoever may write such objects can make each as large as etcd takes it
                if query.get("limit") == str(_AT_ONCE[-1]):
                    raise
                # As many as it was to have, and not all: a token to go on with lives for minutes, calls are counted.
                until.append(len(items) + _AT_ONCE[len(until)])
                query["limit"] = str(_AT_ONCE[len(until)])
                continue
            items += found
            if not (more := meta.get("continue")):
                return Listed(items=tuple(items), resource_version=str(meta.get("resourceVersion", "")))
            if str(more) == query.get("continue") or len(items) > self._measure.objects:
                break
            query["continue"] = str(more)
            while until and len(items) >= until[-1]:
                until.pop()
                query["limit"] = str(_AT_ONCE[len(until)])
        raise ApiUnavailable(f"the list of {path} does not end: {len(items)} objects were read")

    async def _page(self, path: str, query: dict[str, str], each: Each) -> tuple[Sequence[Any], dict[str, Any]]:
        """As `page_of`. The text of one is gone before the next is asked for."""
        return page_of(await self._text("GET", path, most=self._measure.page, query=query), path, each)

    async def create(self, path: str, body: KubeObject) -> KubeObject:
        return await self._call("POST", path, body=body, query={"fieldManager": FIELD_MANAGER})

    async def apply(self, path: str, body: KubeObject, *, force: bool = True) -> KubeObject:
        query = {"fieldManager": FIELD_MANAGER, "force": "true" if force else "false"}
        return await self._call("PATCH", path, body=body, query=query, content_type=_APPLY)

    async def replace(self, path: str, body: KubeObject) -> KubeObject:
        return await self._call("PUT", path, body=body, query={"fieldManager": FIELD_MANAGER})

    async def delete(self, path: str) -> None:
        with suppress(NotFound):
            await self._call("DELETE", path)

    @asynccontextmanager
    async def watch(
        self, path: str, *, resource_version: str, labels: str = "", fields: str = ""
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
            "resourceVersion": resource_version,
            **_selectors(labels, fields),
        }
        async with self._answer("GET", path, query=query, timeout=self._for_watches) as response:
            try:
                if response.status >= 400:
                    refused(response, await text_of(response, most=self._measure.answer), "watch", path)
                yield events_of(response, path)
            finally:
                _cut(response)

    async def _call(self, method: str, path: str, **more: Any) -> KubeObject:
        return object_of(await self._text(method, path, most=self._measure.answer, **more), path)

    async def _text(self, method: str, path: str, *, most: int, **more: Any) -> str:
        async with self._answer(method, path, **more) as response:
            try:
                text = await text_of(response, most=most)
            finally:
                response.release()
        if response.status >= 400:
            refused(response, text, method, path)
        return text

    @asynccontextmanager
    async def _answer(self, method: str, path: str, **more: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """What is answered, while it is read."""
        async with AsyncExitStack() as sessions:
            yield await self._asked(sessions, method, path, **more)

    async def _asked(self, sessions: AsyncExitStack, method: str, path: str, **more: Any) -> aiohttp.ClientResponse:
        """Once more where it was refused by what has been replaced since: nothing was done then."""
        session = await self.renewal.session()
        async with AsyncExitStack() as first:
            await first.enter_async_context(session)
            try:
                response = await self._send(session.api, method, path, **more)
            except Unavailable as error:
                if error.reason is not Reason.KUBERNETES_UNTRUSTED or not await self.renewal.is_replaced(session):
                    raise
            else:
                if response.status != HTTPStatus.UNAUTHORIZED or not await self.renewal.is_replaced(session):
                    sessions.push_async_exit(first.pop_all())
                    return response
                response.release()
        session = await sessions.enter_async_context(await self.renewal.session())
        return await self._send(session.api, method, path, **more)

    async def _send(
        self,
        api: ApiClient,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: KubeObject | None = None,
        content_type: str = _JSON,
        timeout: aiohttp.ClientTimeout | None = None,  # noqa: ASYNC109 - aiohttp's own, of its parts
    ) -> aiohttp.ClientResponse:
        request = await api.param_serialize(
            method,
            path,
            query_params=list(query.items()) if query else None,
            header_params={"Accept": _ACCEPTED, "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            async with asyncio.timeout(self._patience.answer):
                answer = await api.call_api(*request, _request_timeout=timeout or self._for_answers)
        except (aiohttp.ClientSSLError, aiohttp.ServerFingerprintMismatch) as error:
            raise Unavailable(
                Reason.KUBERNETES_UNTRUSTED, f"the API server's certificate is not the expected one: {error}"
            ) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiUnavailable(f"the API server does not answer: {words_of(error)}") from error
        return cast("aiohttp.ClientResponse", answer.response)


async def kubernetes_client(
    settings: ApiServerSettings, *, patience: Patience = _PATIENCE, measure: Measure = _MEASURE
) -> KubernetesClient:
    """A client for the API server that the settings name; nothing is sent yet.

    Raises `InvalidArgument` (`config_invalid`) where the kubeconfig cannot be used, or this is no pod.
    """
    try:
        return KubernetesClient(await renewal(settings), patience=patience, measure=measure)
    except (ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        place, fix = "the service account", "name a kubeconfig, or run in a pod whose service account is mounted"
        if settings.kubeconfig is not None:
            place, fix = f"kubeconfig {settings.kubeconfig}", "mend it, or name another one"
        words = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise InvalidArgument(
            Reason.CONFIG_INVALID, f"{place} does not lead to an API server: {words}", fix=fix
        ) from error


def _cut(response: aiohttp.ClientResponse) -> None:
    """End a watch without a farewell, which would be waited for: the loop may end first, and nobody may be there."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {name: text for name, text in (("labelSelector", labels), ("fieldSelector", fields)) if text}
