"""Connections to Vault that nothing around this process leads elsewhere."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter

from ca.vault.answers import read_bounded
from citadel.config.types import HostPort

_MOVED: Final = frozenset({307, 308})  # those that keep the method and what is sent
_MOST_HOPS: Final = 3


class Certificate(NamedTuple):
    """A certificate that is shown, by its files."""

    file: Path
    key_file: Path


class Connections(requests.Session):
    """Verified by `tls` alone; no proxy, no `.netrc` and no bundle of the environment has a say."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__()
        self.trust_env = False
        self.max_redirects = _MOST_HOPS
        for scheme in ("https://", "http://"):
            self.mount(scheme, _Adapter(tls))

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Where a standby node sends us on, but only where a token may go: never to another scheme."""
        target = super().get_redirect_target(resp)
        if target is None or resp.status_code not in _MOVED:
            return None
        try:
            url, came_from = urlsplit(urljoin(resp.url, target)), urlsplit(resp.url)
            is_safe = url.scheme == "https" or (bool(url.hostname) and HostPort(url.hostname or "", 80).is_loopback)
        except ValueError:  # it leads nowhere
            return None
        return target if is_safe and url.scheme == came_from.scheme else None


def tls_of(*, ca_file: Path | None, certificate: Certificate | None) -> ssl.SSLContext:
    """What verifies Vault, and shows a certificate with its key. Raises `OSError`, of which `ssl.SSLError` is one."""
    context = ssl.create_default_context(cafile=ca_file)
    if certificate is not None:
        # With a key that needs a passphrase OpenSSL would ask for it on the terminal, and wait.
        context.load_cert_chain(*certificate, password=lambda: b"")
    return context


class _Adapter(HTTPAdapter):
    """Requests' own would add its bundle of authorities to those of `tls`."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        super().__init__(max_retries=0)

    def send(self, *args: Any, **options: Any) -> requests.Response:
        """With all of the answer, also of one that leads elsewhere: requests would read those without a bound."""
        response = super().send(*args, **options | {"stream": True})
        read_bounded(response)
        return response

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._tls, **options)

    def cert_verify(self, *_: Any, **__: Any) -> None:
        """The context does it."""
