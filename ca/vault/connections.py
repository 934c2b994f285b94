"""Connections to Vault that nothing around this process leads elsewhere, and that can be cut while a thread waits."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from citadel.config.types import HostPort

_MOVED: Final = frozenset({307, 308})  # those that keep the method and what is sent
_MOST_HOPS: Final = 3


class Certificate(NamedTuple):
    """A certificate that is shown, by its files."""

    file: Path
    key_file: Path


class Call:
    """One call in a thread of its own, which others can cut.

    Timeouts of sockets are between two bytes: who sends one now and then would hold the thread for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._over: socket.socket | None = None
        self._is_cut = False

    def goes_over(self, connection: socket.socket | None) -> None:
        """Its connection from now on; none when it has ended."""
        with self._lock:
            self._over = connection
            if self._is_cut:
                self._shut()

    def cut(self) -> None:
        """End the connection under it, so that its thread is free again."""
        with self._lock:
            self._is_cut = True
            self._shut()

    def _shut(self) -> None:
        if self._over is not None:
            with suppress(OSError):  # it has ended by itself
                self._over.shutdown(socket.SHUT_RDWR)


class Connections(requests.Session):
    """Verified by `tls` alone; no proxy, no `.netrc` and no bundle of the environment has a say."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__()
        self._here = threading.local()
        self.trust_env = False
        self.max_redirects = _MOST_HOPS
        for scheme in ("https://", "http://"):
            self.mount(scheme, _Adapter(tls, self._here))

    @contextmanager
    def made_by(self, call: Call) -> Iterator[None]:
        """What this thread sends within this is of `call`."""
        self._here.call = call
        try:
            yield
        finally:
            self._here.call = None
            call.goes_over(None)

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Where a standby node sends us on, but only where a token may go: never to another scheme."""
        target = super().get_redirect_target(resp)
        if target is None or resp.status_code not in _MOVED:
            return None
        url, came_from = urlsplit(urljoin(resp.url, target)), urlsplit(resp.url)
        is_safe = url.scheme == "https" or (bool(url.hostname) and HostPort(url.hostname or "", 80).is_loopback)
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

    def __init__(self, tls: ssl.SSLContext, here: threading.local) -> None:
        self._tls = tls
        self._here = here
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._tls, **options)
        here = self._here
        # urllib3 makes connections by class, so that what they belong to is a part of the class.
        plain = type("Plain", (_Cuttable,), {"here": here})
        secure = type("Secure", (_Cuttable, HTTPSConnection), {"here": here})
        self.poolmanager.pool_classes_by_scheme = {
            "http": type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
        }

    def cert_verify(self, *_: Any, **__: Any) -> None:
        """The context does it."""


class _Cuttable(HTTPConnection):
    """A connection that tells the call of this thread what it goes over: a second handle, good also under TLS."""

    here: threading.local
    _handle: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        made = super()._new_conn()
        self._handle = made.dup()
        self._tell()
        return made

    def request(self, *args: Any, **options: Any) -> None:
        self._tell()  # it may be one that another call has left open
        super().request(*args, **options)

    def close(self) -> None:
        super().close()
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def _tell(self) -> None:
        call: Call | None = getattr(self.here, "call", None)
        if call is not None and self._handle is not None:
            call.goes_over(self._handle)
