"""A certificate that strangers are shown: from two files that may be replaced at any time."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509

from ca.https.context import server_context
from citadel.clock import Clock
from citadel.config.files import read_public_file, read_secret_file
from citadel.errors import InvalidArgument, Reason
from citadel.probes import Check, Health

_log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 2.0
_LEAST_LEFT: Final = 0.1  # of its life; who renews by itself does so long before


@dataclass(frozen=True, slots=True)
class _Shown:
    """A certificate that can be shown, and the digest of the files that it came from."""

    context: ssl.SSLContext
    not_before: datetime
    not_after: datetime
    digest: bytes


class FileCertificate:
    """Fulfils `ca.https.serving.Certificate`.

    Keeps the last good pair while the files hold a bad one, and says so in `check`. Nothing ever waits for it.
    """

    def __init__(self, name: str, *, certificate_file: Path, key_file: Path, clock: Clock) -> None:
        """`name` is what it is for, in logs and for `/ready`."""
        self._name = name
        self._certificate_file = certificate_file
        self._key_file = key_file
        self._clock = clock
        self._shown: _Shown | None = None
        self._trouble = "its files were not read yet"

    @property
    def context(self) -> ssl.SSLContext | None:
        """What to begin a connection with now; `None` while there has not been a good pair."""
        return self._shown.context if self._shown is not None else None

    async def refresh(self) -> None:
        """Take what the files hold, if it is another pair than before and a good one."""
        try:
            chain, key = await asyncio.to_thread(_read_pair, self._certificate_file, self._key_file)
            if self._shown is None or self._shown.digest != _digest(chain, key):
                self._shown = await asyncio.to_thread(_shown, chain, key, now=self._clock.now())
                _log.info("certificate taken", listener=self._name, until=self._shown.not_after.isoformat())
            self._trouble = ""
        except Exception as error:  # noqa: BLE001 - whatever a file can make of it, the server starts and looks again
            trouble = _in_words(error)
            if trouble != self._trouble:
                _log.warning("certificate not taken", listener=self._name, error=trouble)
            self._trouble = trouble

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await self._clock.sleep(_LOOK_SECONDS)
            await self.refresh()

    def check(self) -> Check:
        """For `/ready`: degraded at the most, since the mesh does not need what strangers read."""
        name, now = self._name, self._clock.now()
        if self._shown is None:
            return Check(name, Health.DEGRADED, f"not served: {self._trouble}")
        until = f"its certificate is good until {self._shown.not_after.isoformat()}"
        if self._trouble:
            return Check(name, Health.DEGRADED, f"{until}; a new one was not taken: {self._trouble}")
        if self._shown.not_after - now < (self._shown.not_after - self._shown.not_before) * _LEAST_LEFT:
            return Check(name, Health.DEGRADED, f"{until}, and was not renewed in time")
        return Check(name, Health.GOOD, until)


def trouble_with(certificate_file: Path, key_file: Path, *, now: datetime) -> str:
    """Why a server would not take this pair now; empty where it would."""
    try:
        _shown(*_read_pair(certificate_file, key_file), now=now)
    except Exception as error:  # noqa: BLE001 - whatever a file can make of it, it is to be told
        return _in_words(error)
    return ""


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, InvalidArgument) else f"{type(error).__name__}: {error}"


def _read_pair(certificate_file: Path, key_file: Path) -> tuple[bytes, bytes]:
    """What both files hold, not yet understood. Raises `InvalidArgument` (`file_unsafe`)."""
    return read_public_file(certificate_file), read_secret_file(key_file)


def _shown(chain: bytes, key: bytes, *, now: datetime) -> _Shown:
    """This pair, ready to be shown. Raises `InvalidArgument` (`config_invalid`) where no client would take it."""
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
        context = server_context(chain, key)
    except (ValueError, OSError) as error:  # what TLS refuses is an `OSError` too
        raise _unusable(f"the certificate and the key do not go together, or are no PEM: {error}") from error
    not_before, not_after = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if not not_before <= now < not_after:
        raise _unusable(f"the certificate is good from {not_before.isoformat()} until {not_after.isoformat()}")
    return _Shown(context, not_before, not_after, _digest(chain, key))


def _digest(chain: bytes, key: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(chain).digest() + key).digest()


def _unusable(problem: str) -> InvalidArgument:
    return InvalidArgument(Reason.CONFIG_INVALID, problem, fix="see the settings of the server")
