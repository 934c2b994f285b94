"""One secret, followed, and what of it can be given to gateways."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeAlias

from ca.kubernetes.gateways.credential import KEYS, Credential, NotYet, authorities_of, certificate_of
from citadel.clock import Clock
from citadel.errors import CitadelError, InvalidArgument, Reason
from citadel.kubernetes.informer import Informer
from citadel.kubernetes.ports import KubeObject, KubernetesApi
from citadel.unexpected import ASKS_TO_END

_ASKED_WITHIN: Final = 90.0  # seconds; whoever wants something asks at least twice a minute
_LOOK_AGAIN: Final = 30.0  # seconds: time alone makes what was good expire, and what was not valid yet good
_FAULTS_AGAIN: Final = 900.0  # seconds: the clock may have been wrong


class Part(StrEnum):
    """What of a secret somebody wants: the certificate with its key, or the authorities."""

    CERTIFICATE = "certificate"
    AUTHORITIES = "authorities"


Read: TypeAlias = Callable[[Mapping[str, bytes], datetime], Credential]
_READ: Final[Mapping[Part, Read]] = {Part.CERTIFICATE: certificate_of, Part.AUTHORITIES: authorities_of}


@dataclass(frozen=True, slots=True)
class SecretName:
    """A secret by its namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What is kept of a secret: what gateways use, and nothing else of it."""

    uid: str
    data: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The last that was good, and what is wrong with what is there now; each None where there is nothing such."""

    good: Credential | None = None
    fault: InvalidArgument | None = None

    @property
    def state(self) -> str:
        """As it is counted: `good`, `behind` where the secret was good before, or `bad`."""
        if self.fault is None:
            return "good"
        return "behind" if self.good is not None else "bad"


class WatchedSecret:
    """What is known of one secret. Nothing bad ever takes the place of what is `good` of it.

    `exists` is None until the API server has said it, which is waited for since `begun`, and `parts` then says what
    there is of each. A secret that is deleted leaves nothing behind here.
    """

    def __init__(
        self,
        name: SecretName,
        *,
        api: KubernetesApi,
        turn: asyncio.Semaphore,
        clock: Clock,
        read: Mapping[Part, Read] = _READ,
    ) -> None:
        """`turn` is waited for to read it: what is in one may take a while, and is to leave threads to others."""
        self.name = name
        self.begun = clock.monotonic()
        self.exists: bool | None = None
        self.uid = ""
        self.parts: Mapping[Part, Judged] = {}
        self._clock = clock
        self._turn = turn
        self._read = read
        self._asked: dict[Part, float] = {}
        self._judged_at = 0.0
        self._news = asyncio.Event()
        # Asked for by its name, so that a role that names it is enough.
        self._informer = Informer(
            api,
            f"/api/v1/namespaces/{name.namespace}/secrets",
            keep=contents_of,
            fields=f"metadata.name={name.name}",
            clock=clock,
        )
        self._informer.follow(lambda _key, _before, _after: self._news.set())

    @property
    def trouble(self) -> CitadelError | None:
        """Why it cannot be followed just now."""
        return self._informer.trouble

    @property
    def is_of_use(self) -> bool | None:
        """See `ca.kubernetes.gateways.followed.Followable`."""
        return None if self.exists is None else any(judged.good for judged in self.parts.values())

    def ask(self, part: Part) -> Judged:
        """What there is of a part that exists. Only what somebody asks for is anybody's fault."""
        self._asked[part] = self._clock.monotonic()
        return self.parts[part]

    def asked(self) -> Iterator[Judged]:
        """What there is of each part that somebody has asked for lately."""
        lately = self._clock.monotonic() - _ASKED_WITHIN
        yield from (self.parts[part] for part, at in self._asked.items() if at >= lately and part in self.parts)

    async def run(self, changed: Callable[[], None]) -> None:
        """Follow it for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._informer.run())
            tasks.create_task(self._tick())
            await self._informer.until_synced()
            while True:
                self._news.clear()
                await self._judge(self._informer.current.get(str(self.name)))
                changed()
                await self._news.wait()

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep(_LOOK_AGAIN)
            now, is_long_ago = self._clock.now(), self._clock.monotonic() - self._judged_at >= _FAULTS_AGAIN
            if any(_may_differ(each, now) or (is_long_ago and each.fault is not None) for each in self.asked()):
                self._news.set()

    async def _judge(self, contents: Contents | None) -> None:
        if contents is None:
            self.exists, self.uid, self.parts = False, "", {}
            return
        self._judged_at = self._clock.monotonic()
        # The good ones of a secret that was deleted are no other's, even where its end and the new one came at once.
        now, before = self._clock.now(), (self.parts if contents.uid == self.uid else {})
        # Off the loop: a large set of authorities takes a while.
        async with self._turn:
            found = await asyncio.to_thread(_judged, self._read, contents.data, now)
        self.parts = {part: _after(before.get(part, Judged()), judged) for part, judged in found.items()}
        self.exists, self.uid = True, contents.uid


def contents_of(found: KubeObject) -> Contents:
    """What is kept of a secret as the API server writes it."""
    meta, data = found.get("metadata") or {}, found.get("data") or {}
    kept = {key: _decoded(str(data[key])) for key in sorted(KEYS & data.keys()) if data[key]}
    return Contents(uid=str(meta.get("uid") or ""), data=kept)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):  # no API server writes this
        return b"not base64"


def _judged(reading: Mapping[Part, Read], data: Mapping[str, bytes], now: datetime) -> Mapping[Part, Judged]:
    found = {}
    for part, read in reading.items():
        try:
            found[part] = Judged(good=read(data, now))
        except InvalidArgument as fault:
            found[part] = Judged(fault=fault)
        except ASKS_TO_END:
            raise
        except BaseException as error:  # noqa: BLE001 - an odd secret of one tenant is no matter of the others
            # Only its kind is told: what it says may hold something of the secret.
            words = f"its {part} cannot be read ({type(error).__name__})"
            found[part] = Judged(fault=InvalidArgument(Reason.CREDENTIAL_INVALID, words))
    return found


def _after(before: Judged, found: Judged) -> Judged:
    """What is known now: the good one of before stays until there is another."""
    if found.good is None:
        return replace(found, good=before.good)
    return before if found == before else found


def _may_differ(judged: Judged, now: datetime) -> bool:
    """Whether time has made another thing of it since."""
    if judged.fault is not None:
        return isinstance(judged.fault, NotYet) and judged.fault.begins <= now
    return judged.good is not None and judged.good.ends <= now
