"""What was measured beside what was to be reached: a table for people, JSON for programs, a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from tests.bench import rotation_picture

Unit = Literal["/s", "ms", "s", "MB", "B", "KiB", "%", "x", "calls"]
_BAR_LIMIT: Final = 4.0  # bars end here, or one good row would flatten all others


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line. `goal` is None for what is only told; `at_most` says on which side of it the good lies."""

    what: str
    value: float
    unit: Unit
    goal: float | None = None
    at_most: bool = False
    note: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    @property
    def reached(self) -> float:
        """How good against the goal: 1 is the goal, 2 is twice as good."""
        assert self.goal is not None
        return self.goal / max(self.value, 1e-9) if self.at_most else self.value / self.goal


def table(rows: Sequence[Row]) -> str:
    """The rows as text, a note beneath each."""
    lines = [f"{'what':<80} {'measured':>12} {'goal':>12}  "]
    for row in rows:
        goal = "" if row.goal is None else f"{'<=' if row.at_most else '>='} {_number(row.goal, row.unit)}"
        verdict = {True: "met", False: "MISSED", None: ""}[row.met]
        lines.append(f"{row.what:<80} {_number(row.value, row.unit):>12} {goal:>12}  {verdict}".rstrip())
        if row.note:
            lines.append(f"    {row.note}")
    return "\n".join(lines)


def write(rows: Sequence[Row], machine: Mapping[str, Any], folder: Path) -> None:
    """Write `bench.json`, `bench.png` and `bench.svg`; and `rotation.png` and `rotation.svg` where one was measured."""
    said = [
        {
            "what": row.what,
            "value": row.value,
            "unit": row.unit,
            "goal": row.goal,
            "at_most": row.at_most,
            "met": row.met,
            "note": row.note,
            "details": dict(row.details),
        }
        for row in rows
    ]
    document = {"machine": dict(machine), "rows": said}
    (folder / "bench.json").write_text(json.dumps(document, indent=2) + "\n")
    _draw([row for row in rows if row.goal is not None], folder)
    for course in (row.details["course"] for row in rows if "course" in row.details):
        rotation_picture.draw(course, folder)


def _draw(rows: Sequence[Row], folder: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - half a second, which the measuring need not wait for

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - only after the backend is chosen

    figure, axes = plt.subplots(figsize=(11, 1.2 + 0.42 * len(rows)))
    reached = [min(row.reached, _BAR_LIMIT) for row in rows]
    axes.barh(range(len(rows)), reached, color=["#2a7f62" if row.met else "#c0392b" for row in rows])
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), [row.what for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, _BAR_LIMIT * 1.15)
    axes.set_xlabel("how good against the goal (1 = the goal; longer is better)")
    for place, (row, length) in enumerate(zip(rows, reached, strict=True)):
        more = " →" if row.reached > _BAR_LIMIT else ""
        axes.text(length + 0.03, place, f"{_number(row.value, row.unit)}{more}", va="center", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    for kind in ("png", "svg"):
        figure.savefig(folder / f"bench.{kind}", dpi=120)
    plt.close(figure)


def _number(value: float, unit: Unit) -> str:
    if unit == "%":
        return f"{value:.1f} %"
    if unit == "x":
        return f"{value:.2f} x"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}" if unit != "/s" else f"{value:,.{digits}f}/s"
