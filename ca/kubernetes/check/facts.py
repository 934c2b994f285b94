"""What an API server says, as values. Where it says no instead, that stands in the fact's place."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeAlias, TypeVar

from ca.kubernetes.permissions import Grant
from citadel.bundle import TrustBundle
from citadel.entry import Entry
from citadel.errors import CitadelError
from citadel.kubernetes.ports import FIELD_MANAGER

T = TypeVar("T")
Seen: TypeAlias = T | CitadelError
Allowed: TypeAlias = Mapping[Grant, bool]


async def seen(asked: Awaitable[T]) -> Seen[T]:
    """What was asked for, or why it cannot be had."""
    try:
        return await asked
    except CitadelError as error:
        return error


EVERYTHING: Final = Grant("*", "*", "*")  # whoever may do it has the whole cluster


@dataclass(frozen=True, slots=True)
class Version:
    """Such as 1.37."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, as the API server knows it, and its clock; `asked_at` is the clock here in the middle of the question.

    `time` is None where it does not tell.
    """

    name: str
    time: datetime | None
    asked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A service account that agents are to have.

    `allowed` is what it may, as far as others may be asked for. `trial` is why a token of it, for the audience of the
    settings, is not good; None where it is.
    """

    exists: Seen[bool]
    allowed: Seen[Allowed]
    trial: CitadelError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod of the server or of an agent. `audiences` are those of the tokens that are projected into it.

    `waits_for` is why it does not run; empty where nobody says.
    """

    name: str  # namespace/name
    node: str
    is_ready: bool
    audiences: frozenset[str]
    sees_processes: bool
    waits_for: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """A Deployment or DaemonSet of such pods, and how many it wants.

    `refused` is why none can be made, where the API server tells; `lacking` what its pods need of secrets that are not
    there.
    """

    kind: str  # deployment or daemonset
    namespace: str
    name: str
    wanted: int
    refused: str = ""
    lacking: Seen[tuple[str, ...]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAccount:
    """The service account of the server, where an administrator names it, and what runs as it."""

    exists: Seen[bool]
    makers: Seen[tuple[Maker, ...]] = ()
    pods: Seen[tuple[Pod, ...]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A ConfigMap of one of the names in the settings; `writers` are the field managers that hold its data."""

    data: Mapping[str, str]
    writers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked:
    """How a running server fares with a cluster: what troubles it there, and pods that are to have entries.

    `admitted` is None where pods get none by template. `shown` are some of the `problems`.
    """

    trouble: CitadelError | None = None
    admitted: int | None = None
    entries: int = 0
    problems: int = 0
    shown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What a running server says of itself."""

    bundle: TrustBundle
    clusters: Mapping[str, Worked]
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """All that was found. What was not asked for, or could not be for what stands before it, is None or empty.

    `issuer_keys` are the ids of the keys that sign its tokens, `kinds` those that not every API server has, each with
    the newest version that we speak, and `maps` the ConfigMaps by name and namespace. `namespaces` have what their pod
    security enforces, empty where nothing, and `nodes` are those that run Linux.
    """

    version: Seen[Version]
    caller: Seen[Caller] | None = None
    issuer_keys: Seen[frozenset[str]] = frozenset()
    kinds: Seen[Mapping[str, str]] | None = None
    allowed: Seen[Allowed] = field(default_factory=dict)
    namespaces: Seen[Mapping[str, str]] | None = None
    accounts: Mapping[str, Account] = field(default_factory=dict)
    nodes: Seen[frozenset[str]] | None = None
    agents: Seen[tuple[Pod, ...]] | None = None
    agent_makers: Seen[tuple[Maker, ...]] = ()
    server: ServerAccount | None = None
    maps: Mapping[str, Seen[Mapping[str, Kept]]] = field(default_factory=dict)

    @property
    def lacks_account(self) -> bool:
        """Whether somebody has named one of the server that is not there."""
        return self.server is not None and self.server.exists is False

    @property
    def is_installed(self) -> bool:
        """Whether that may be so: no account is lacking, or what only an install brings is there all the same."""
        return not self.lacks_account or bool(self.left_by_one)

    @property
    def left_by_one(self) -> str:
        """What only an install brings, in words; empty where nothing of it was seen."""
        if isinstance(self.agents, tuple) and self.agents:
            return f"the agent {min(each.name for each in self.agents)}"
        maps = ((name, kept) for name, kept in self.maps.items() if not isinstance(kept, CitadelError))
        ours = (f"{where}/{name}" for name, kept in maps for where, its in kept.items() if FIELD_MANAGER in its.writers)
        return f"the ConfigMap {first}" if (first := min(ours, default="")) else ""
