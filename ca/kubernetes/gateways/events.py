"""Events on secrets that cannot be used, so that their owners see it where they look: `kubectl describe secret`."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import structlog

from ca.kubernetes.gateways.secret import SecretName
from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.kubernetes.ports import KubernetesApi
from citadel.unexpected import nothing_unexpected

_TELL_AGAIN: Final = 900.0  # seconds; the API server forgets an Event after an hour
_BETWEEN: Final = 0.2  # seconds between writes, whoever breaks how many secrets
_MOST: Final = 1000
_FORM: Final = "%Y-%m-%dT%H:%M:%SZ"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretFault:
    """What is wrong with a secret. `is_served` says whether gateways go on with what was good before."""

    secret: SecretName
    uid: str
    fault: CitadelError
    is_served: bool

    @property
    def message(self) -> str:
        """In words, without anything of the secret itself."""
        after = "gateways keep the last good one" if self.is_served else "gateways that want it have none"
        return f"{self.fault.message}; {after}"

    @property
    def name(self) -> str:
        """The name of its Event: the same fault of the same secret is one Event, whoever finds it."""
        digest = hashlib.sha256(f"{self.uid}\0{self.message}".encode()).hexdigest()
        return f"{self.secret.name[:220]}.{digest[:16]}"


@dataclass(slots=True)
class _Told:
    first: datetime
    at: float
    count: int = 0


class EventReporter:
    """Writes one Event for each fault, again while it lasts, and never more than a few a second."""

    def __init__(self, cluster: str, *, api: KubernetesApi, clock: Clock) -> None:
        self._cluster = cluster
        self._api = api
        self._clock = clock
        self._told: OrderedDict[str, _Told] = OrderedDict()
        self._waiting: dict[str, SecretFault] = {}
        self._news = asyncio.Event()

    def note(self, fault: SecretFault) -> None:
        """It is so now. May be said as often as one likes."""
        told = self._told.get(fault.name)
        if fault.name in self._waiting or (told is not None and self._clock.monotonic() < told.at + _TELL_AGAIN):
            return
        if len(self._waiting) < _MOST:
            self._waiting[fault.name] = fault
            self._news.set()

    async def run(self) -> None:
        """Write what was noted, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                await self._tell(self._waiting.pop(next(iter(self._waiting))))
                await self._clock.sleep(_BETWEEN)

    async def _tell(self, fault: SecretFault) -> None:
        now = self._clock.now()
        told = self._told.pop(fault.name, None) or _Told(first=now, at=0.0)
        if not told.count:
            _log.error(
                "a gateway's secret cannot be used", cluster=self._cluster, secret=str(fault.secret), why=fault.message
            )
        told.at, told.count = self._clock.monotonic(), told.count + 1
        self._told[fault.name] = told
        if len(self._told) > _MOST:
            self._told.popitem(last=False)
        path = f"/api/v1/namespaces/{fault.secret.namespace}/events/{fault.name}"
        try:
            with nothing_unexpected(path):
                await self._api.apply(path, _event(fault, told, now))
        except CitadelError as error:  # the log has it
            _log.warning("no Event could be written", cluster=self._cluster, reason=error.reason, error=str(error))


def _event(fault: SecretFault, told: _Told, now: datetime) -> dict[str, Any]:
    secret = fault.secret
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": fault.name, "namespace": secret.namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Secret",
            "name": secret.name,
            "namespace": secret.namespace,
            "uid": fault.uid,
        },
        "type": "Warning",
        "reason": "CredentialInvalid",
        "message": fault.message,
        "source": {"component": "citadel"},
        "reportingComponent": "citadel",
        "firstTimestamp": told.first.strftime(_FORM),
        "lastTimestamp": now.strftime(_FORM),
        "count": told.count,
    }
