"""How long is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshShape:
    """Agents with so many entries each, and the seconds over which a rotation spreads their renewal."""

    agents: int
    entries: int
    window: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Rounds of so many seconds for rates; how many entries, streams, pushes and refresh hints for the rest."""

    rounds: int
    seconds: float
    pushes: int
    entries: int
    streams: tuple[int, ...]
    mesh: MeshShape
    hints: int


QUICK: Final = Effort(
    rounds=2,
    seconds=1.5,
    pushes=30,
    entries=3_000,
    streams=(1_000,),
    mesh=MeshShape(agents=100, entries=100, window=2.0),
    hints=1,
)
FULL: Final = Effort(
    rounds=7,
    seconds=4.0,
    pushes=200,
    entries=20_000,
    streams=(1_000, 5_000),
    mesh=MeshShape(agents=1_000, entries=100, window=20.0),
    hints=2,
)
