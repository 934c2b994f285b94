"""The file with the policies: read at the start, and again whenever it changes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from citadel.access.rules import Policies as Document
from citadel.clock import Clock
from citadel.errors import InvalidArgument, Reason
from citadel.jwt.key_ring import IssuerKeyRing
from citadel.jwt.keys import IssuerStatus
from citadel.probes import Check, Health
from sds.authz.policies import Policies

_LOOK_SECONDS: Final = 1.0
_NONE: Final = Document(policies=(), leeway=timedelta(0))

_log = structlog.get_logger(__name__)


def _load(path: Path) -> Document:
    from citadel.access.loading import load_policies  # noqa: PLC0415 - most agents have no policies, and hold no reader

    return load_policies(path)


class PolicyFile:
    """The policies of a file, the last good ones while it holds bad ones. Without a path there is none for anybody."""

    def __init__(
        self, path: Path | None, *, keys: IssuerKeyRing, clock: Clock, load: Callable[[Path], Document] = _load
    ) -> None:
        self._path = path
        self._load = load
        self._keys = keys
        self._clock = clock
        self._taken = self._seen = b""  # digests: of what is at work, and of what the file held last
        self._taken_at: datetime | None = None
        self._trouble = ""
        self.current = self._at_work(_NONE)

    @property
    def is_refused(self) -> bool:
        """Whether the file holds something else than what is at work, and was refused."""
        return bool(self._trouble)

    def issuers(self) -> tuple[IssuerStatus, ...]:
        """Each issuer whose keys the policies need from the network."""
        return self._keys.statuses()

    async def load(self) -> None:
        """Take what the file holds. Raises `InvalidArgument` (`config_invalid`) with all that is wrong with it."""
        if self._path is not None:
            self._seen = await asyncio.to_thread(_digest, self._path)
            await self._take(self._path, self._seen)

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await self._clock.sleep(_LOOK_SECONDS)
            await self.refresh()

    async def refresh(self) -> None:
        """Take what the file holds if it is something else than before, and good."""
        if self._path is None:
            return
        seen, self._seen = self._seen, b""
        try:
            digest = self._seen = await asyncio.to_thread(_digest, self._path)
            if digest == seen:
                return
            if digest != self._taken:
                await self._take(self._path, digest)
            if self._trouble:
                _log.info("the policy file is good again", file=str(self._path))
            self._trouble = ""
        except InvalidArgument as error:
            self._keep(error.message)
        except Exception as error:  # noqa: BLE001 - whatever a file does to its reader, it must not end the agent
            self._keep(f"{self._path}: cannot be read: {type(error).__name__}")

    def checks(self) -> Iterator[Check]:
        """For `/ready`: degraded at the most. Certificates do not depend on it, and the last good policies stay."""
        if self._path is None:
            return
        since = self._taken_at.isoformat(timespec="seconds") if self._taken_at is not None else "never"
        if self._trouble:
            yield Check("policies", Health.DEGRADED, f"those of {since}; newer ones are refused: {self._trouble}")
        else:
            yield Check("policies", Health.GOOD, f"taken {since}")
        for issuer in self.issuers():
            health = Health.DEGRADED if issuer.degraded else Health.GOOD
            yield Check(f"keys of {issuer.issuer}", health, issuer.words)

    def _keep(self, trouble: str) -> None:
        if trouble != self._trouble:  # said once of what cannot be read for long
            _log.error("policies not taken, those before stay", file=str(self._path), error=trouble)
        self._trouble = trouble

    async def _take(self, path: Path, digest: bytes) -> None:
        document = await asyncio.to_thread(self._load, path)
        self.current = self._at_work(document)
        self._taken, self._taken_at = digest, self._clock.now()
        _log.info("policies taken", file=str(path), policies=[each.name for each in document.policies])
        await self._keys.keep_only(rule for policy in document.policies for rule in policy.jwt_rules)

    def _at_work(self, document: Document) -> Policies:
        return Policies(document, keys=self._keys, keys_version=lambda: self._keys.version, clock=self._clock)


def _digest(path: Path) -> bytes:
    """Of what the file holds; what its dates say could be set back."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        raise InvalidArgument(Reason.CONFIG_INVALID, f"{path}: cannot be read: {error.strerror}") from error
