"""Where an API server is, as whom it is asked, and by which roots it is believed."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import structlog
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_kube_config
from kubernetes.aio.config.incluster_config import InClusterConfigLoader

from citadel.kubernetes.settings import ApiServerSettings

# kubelet replaces a service account's token when it has four fifths of its hour behind it.
_TOKEN_AGAIN: Final = 60.0  # seconds
# Tokens of cloud providers' commands, which are slow, end after a quarter of an hour or later.
_KUBECONFIG_AGAIN: Final = 300.0
_MOST_CONNECTIONS: Final = 1000  # a watch holds one for itself, and each secret of a gateway is watched alone
_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_log = structlog.get_logger(__name__)


async def api_client(
    settings: ApiServerSettings, *, account: Path = _ACCOUNT, now: Callable[[], float] = time.monotonic
) -> ApiClient:
    """The official client, not connected yet. Raises what it raises, and `ValueError` for what nobody should trust.

    `account` is where a pod finds its service account. Its token is read anew every minute, and a kubeconfig with its
    token file or command every five.
    """
    configuration = await _configuration(settings, account)

    async def read_again() -> None:
        fresh = await _configuration(settings, account)
        if fresh.host != configuration.host:
            raise ValueError(f"{fresh.host} is another API server; restart for it")
        configuration.api_key = fresh.api_key

    every = _TOKEN_AGAIN if settings.kubeconfig is None else _KUBECONFIG_AGAIN
    hooked: Any = configuration  # whose hook is typed as none
    hooked.refresh_api_key_hook = _Again(read_again, every=every, now=now)
    api = ApiClient(configuration)
    if not (configuration.ssl_ca_cert or configuration.ca_cert_data):
        api.rest_client.ssl_context = _public_roots(configuration)
    return api


async def _configuration(settings: ApiServerSettings, account: Path) -> Configuration:
    configuration = Configuration()
    # Nothing of the environment has a say in where tokens go.
    configuration.client_session_kwargs = {"trust_env": False}
    configuration.connection_pool_maxsize = _MOST_CONNECTIONS
    if settings.kubeconfig is None:
        loader = InClusterConfigLoader(  # type: ignore[no-untyped-call]  # the package types it in part
            str(account / "token"), str(account / "ca.crt"), try_refresh_token=False
        )
        await asyncio.to_thread(loader.load_and_set, configuration)
    else:
        await load_kube_config(  # type: ignore[no-untyped-call]  # as above
            config_file=str(settings.kubeconfig), context=settings.context, client_configuration=configuration
        )
    if not configuration.host.startswith("https://"):
        raise ValueError(f"{configuration.host} is not https")
    if not configuration.verify_ssl:
        raise ValueError("insecure-skip-tls-verify is not taken; name the certificate-authority instead")
    return configuration


class _Again:
    """Asked before each call by the package: loads again from time to time. What cannot be loaded leaves what was."""

    def __init__(self, load: Callable[[], Awaitable[None]], *, every: float, now: Callable[[], float]) -> None:
        self._load = load
        self._every = every
        self._now = now
        self._next = now() + every

    async def __call__(self, _: Configuration) -> None:
        if self._now() < self._next:
            return
        self._next = self._now() + self._every  # before it is loaded: other calls go on with what is there
        try:
            await self._load()
        except Exception as error:  # noqa: BLE001 - whatever a command or a file can make of it, the token may be good
            _log.warning("what identifies this process to the API server cannot be read again", error=str(error))


def _public_roots(configuration: Configuration) -> ssl.SSLContext:
    """Those of the system, for a kubeconfig without a CA: Python's own way would follow SSL_CERT_FILE to others."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    places = ssl.get_default_verify_paths()
    if Path(places.openssl_cafile).exists():
        context.load_verify_locations(cafile=places.openssl_cafile)
    if Path(places.openssl_capath).exists():
        context.load_verify_locations(capath=places.openssl_capath)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    return context
