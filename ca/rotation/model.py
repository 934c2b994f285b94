"""What a rotation is, in the store and in memory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class RotationKind(StrEnum):
    """What is rotated."""

    ROOT = "root"
    ISSUER = "issuer"
    SVID = "svid"
    JWT = "jwt"


class Phase(StrEnum):
    """Where a rotation stands; see "Authorities and rotation" in the design. `machine.COURSE` has their order."""

    PREPARE = "prepare"
    OBSERVE = "observe"
    ACTIVATE = "activate"
    RENEW = "renew"
    DRAIN = "drain"
    RETIRE = "retire"
    SETTLE = "settle"
    DONE = "done"
    UNDO = "undo"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens."""
        return self in (Phase.DONE, Phase.ABORTED, Phase.SUPERSEDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Longest:
    """How long what is signed now can live at most; and how long it takes other trust domains to look at the bundle.

    `between_looks` is None where they are not served it.
    """

    leaf: timedelta
    token: timedelta
    between_looks: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which SVIDs a rotation of SVIDs renews; an empty field means all."""

    spiffe_id: str = ""
    agent: str = ""

    def __str__(self) -> str:
        return self.spiffe_id or self.agent or "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """One rotation. Each change of it is durable before it is acted upon.

    `new_id` is the id of the authority that comes, chosen before there is one, so that whoever was killed in between
    makes it only once. `old_ids` are the authorities that go. `deadline` is set in an emergency alone: then what
    is old goes, whatever depends on it. `alarm` says why it went on without everybody.
    """

    id: str
    kind: RotationKind
    phase: Phase
    started_at: datetime
    phase_since: datetime
    started_by: str
    window: timedelta
    margin: timedelta
    why: str = ""
    new_id: str = ""
    old_ids: tuple[str, ...] = ()
    scope: Scope = Scope()
    deadline: datetime | None = None
    paused: bool = False
    skipped: frozenset[str] = frozenset()
    alarm: str = ""
    ended_at: datetime | None = None

    @property
    def is_emergency(self) -> bool:
        """Whether what is old is not to be trusted any more."""
        return self.deadline is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who is waited for. `name` is what a person may skip; `until` is when it is waited for no longer, if ever.

    `agent` is set for a part, such as a stream of an agent's: who skips the whole skips it too. `is_mere_time` where
    nobody is late, and time alone has to pass. `is_error` where it is this server itself, which cannot do what the
    phase asks for.
    """

    name: str
    words: str
    until: datetime | None = None
    agent: str = ""
    is_mere_time: bool = False
    is_error: bool = False
