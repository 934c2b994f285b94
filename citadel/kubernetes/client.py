"""The API server, through the official client's connection, in plain JSON: its thousand models cost time and memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, Final, NoReturn, cast

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException

from citadel.errors import FailedPrecondition, InvalidArgument, NotFound, Reason, Unavailable
from citadel.kubernetes.ports import FIELD_MANAGER, ApiUnavailable, KubeObject, Listed, WatchEvent, WatchExpired
from citadel.kubernetes.settings import ApiServerSettings

_PAGE: Final = 500  # objects of a list that are read at once, as client-go's reflectors do
_TIMEOUT: Final = aiohttp.ClientTimeout(total=15, sock_connect=5)
# The API server ends a watch by itself and is asked to after this; silence beyond it is a dead connection.
_WATCH_SECONDS: Final = 300
_WATCH_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=_WATCH_SECONDS + 30)
_MOST_SHOWN: Final = 300  # characters of an answer that are repeated in a refusal
_MOST_RETRY_AFTER: Final = timedelta(minutes=5)
_JSON: Final = "application/json"
_ACCEPTED: Final = f"{_JSON}, application/jwk-set+json"  # the keys of its issuer are offered as the latter alone
_APPLY: Final = "application/apply-patch+yaml"


class KubernetesClient:
    """Fulfils `citadel.kubernetes.ports.KubernetesApi`. Lives on one event loop; `close` ends its connections."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def close(self) -> None:
        """End every connection."""
        await self._api.close()  # type: ignore[no-untyped-call]  # the package types it in part

    async def get(self, path: str) -> KubeObject:
        return await self._call("GET", path)

    async def list(self, path: str, *, labels: str = "", fields: str = "") -> Listed:
        items: list[KubeObject] = []
        query = {"limit": str(_PAGE), **_selectors(labels, fields)}
        while True:
            page = await self._call("GET", path, query=query)
            items.extend(page.get("items") or ())
            meta = page.get("metadata") or {}
            if not (more := meta.get("continue")):
                return Listed(items=tuple(items), resource_version=str(meta.get("resourceVersion", "")))
            query["continue"] = str(more)

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
        response = await self._send("GET", path, query=query, timeout=_WATCH_TIMEOUT)
        try:
            if response.status >= 400:
                _refused(response, await _text(response), "watch", path)
            yield _events(response, path)
        finally:
            response.close()

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: KubeObject | None = None,
        content_type: str = _JSON,
    ) -> KubeObject:
        response = await self._send(method, path, query=query, body=body, content_type=content_type)
        try:
            text = await _text(response)
        finally:
            response.release()
        if response.status >= 400:
            _refused(response, text, method, path)
        return _object(text, path)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: KubeObject | None = None,
        content_type: str = _JSON,
        timeout: aiohttp.ClientTimeout = _TIMEOUT,  # noqa: ASYNC109 - aiohttp's own, of its parts
    ) -> aiohttp.ClientResponse:
        try:
            request = await self._api.param_serialize(
                method,
                path,
                query_params=list(query.items()) if query else None,
                header_params={"Accept": _ACCEPTED, "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = await self._api.call_api(*request, _request_timeout=timeout)
        except (aiohttp.ClientSSLError, aiohttp.ServerFingerprintMismatch) as error:
            raise Unavailable(
                Reason.KUBERNETES_UNTRUSTED, f"the API server's certificate is not the expected one: {error}"
            ) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiUnavailable(f"the API server does not answer: {_words(error)}") from error
        except ConfigException as error:  # the token file of the service account went away
            raise Unavailable(Reason.KUBERNETES_LOGIN_REFUSED, str(error)) from error
        return cast("aiohttp.ClientResponse", answer.response)


async def kubernetes_client(settings: ApiServerSettings) -> KubernetesClient:
    """A client for the API server that the settings name; nothing is sent yet.

    Raises `InvalidArgument` (`config_invalid`) where the kubeconfig cannot be used, or this is no pod.
    """
    configuration = Configuration()
    # Nothing of the environment has a say in where tokens go.
    configuration.client_session_kwargs = {"trust_env": False}
    try:
        if settings.kubeconfig is not None:
            await config.load_kube_config(  # type: ignore[no-untyped-call]  # as above
                config_file=str(settings.kubeconfig), context=settings.context, client_configuration=configuration
            )
        else:
            await asyncio.to_thread(config.load_incluster_config, configuration)
        return KubernetesClient(ApiClient(configuration))
    except (ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        place = f"kubeconfig {settings.kubeconfig}" if settings.kubeconfig is not None else "the service account"
        raise InvalidArgument(
            Reason.CONFIG_INVALID,
            f"{place} does not lead to an API server: {error}",
            fix="name a kubeconfig, or run in a pod whose service account is mounted",
        ) from error


async def _events(response: aiohttp.ClientResponse, path: str) -> AsyncIterator[WatchEvent]:
    try:
        async for line in response.content:
            event = _object(line.decode(errors="replace"), path)
            found = event.get("object") or {}
            if event.get("type") == "ERROR":
                _failed(int(found.get("code") or 500), str(found.get("message", "")), "watch", path, None)
            yield WatchEvent(str(event.get("type")), found)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise ApiUnavailable(f"a watch of {path} broke off: {_words(error)}") from error
    except ValueError as error:  # a line longer than any object that etcd takes
        raise ApiUnavailable(f"a watch of {path} cannot be read: {error}") from error


async def _text(response: aiohttp.ClientResponse) -> str:
    try:
        return await response.text(errors="replace")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise ApiUnavailable(f"the API server's answer broke off: {_words(error)}") from error


def _object(text: str, path: str) -> KubeObject:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ApiUnavailable(f"what answers at {path} is no API server: {text[:_MOST_SHOWN]!r}") from error
    if not isinstance(found, dict):
        raise ApiUnavailable(f"what answers at {path} is no API server: {text[:_MOST_SHOWN]!r}")
    return cast("dict[str, Any]", found)


def _refused(response: aiohttp.ClientResponse, text: str, method: str, path: str) -> NoReturn:
    try:
        said = str(json.loads(text).get("message", ""))
    except (ValueError, AttributeError):
        said = text
    _failed(response.status, said[:_MOST_SHOWN], method, path, response.headers.get("Retry-After"))


def _failed(status: int, said: str, method: str, path: str, retry_after: str | None) -> NoReturn:
    what = f"{method} {path}: {said or status}"
    match status:
        case 401:
            raise Unavailable(Reason.KUBERNETES_LOGIN_REFUSED, f"the API server does not know who asks: {what}")
        case 403:
            raise Unavailable(
                Reason.KUBERNETES_DENIED,
                f"the API server does not allow it: {what}",
                fix="compare the ClusterRole with the one that the chart installs",
            )
        case 404:
            raise NotFound(Reason.KUBERNETES_NOT_FOUND, what)
        case 409:
            raise FailedPrecondition(Reason.KUBERNETES_CONFLICT, what)
        case 410:
            raise WatchExpired(what)
        case 408 | 429 | 500 | 502 | 503 | 504:
            raise ApiUnavailable(f"the API server answers {status} to {what}", retry_after=_span(retry_after))
        case _:
            raise Unavailable(Reason.KUBERNETES_REFUSED, f"the API server refuses ({status}): {what}")


def _span(seconds: str | None) -> timedelta | None:
    if seconds is None or not seconds.isascii() or not seconds.isdigit():
        return None
    return min(timedelta(seconds=min(int(seconds), 10_000)), _MOST_RETRY_AFTER)


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {name: text for name, text in (("labelSelector", labels), ("fieldSelector", fields)) if text}


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
