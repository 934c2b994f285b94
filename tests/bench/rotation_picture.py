"""How a rotation went, as a picture: the share of SVIDs that are renewed, over time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_GREEN: Final = "#2a7f62"


def draw(course: Mapping[str, Any], folder: Path) -> None:
    """Write `rotation.png` and `rotation.svg` from what `tests.bench.rotation.Course.told` says."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second, which the measuring need not wait for

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - only after the backend is chosen

    figure, axes = plt.subplots(figsize=(11, 4.2))
    moments, shares = zip(*course["renewed"], strict=True)
    axes.axvspan(course["renewing_from"], course["renewing_from"] + course["window"], color="#e8f0ed")
    axes.axvline(course["renewing_from"] + course["goal"], color="black", linewidth=1)
    axes.step(moments, [100 * share for share in shares], where="post", color=_GREEN, linewidth=1.8)
    for at, phases in _labels(course["phases"], apart=moments[-1] / 40).items():
        axes.axvline(at, color="#999999", linewidth=0.6, linestyle=":")
        axes.text(at, 103, phases, fontsize=7, rotation=30, color="#555555")
    axes.set_ylim(0, 102)
    axes.set_xlim(0)
    axes.set_ylabel("SVIDs renewed, %")
    axes.set_xlabel(
        f"seconds since the rotation was asked for; shaded: the window of {course['window']:g} s; "
        f"line: {course['goal']:g} s after the new root began to sign"
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    for kind in ("png", "svg"):
        figure.savefig(folder / f"rotation.{kind}", dpi=120)
    plt.close(figure)


def _labels(phases: Mapping[str, float], *, apart: float) -> Mapping[float, str]:
    """Where each phase begins; those that would be written over each other share a label."""
    labels: dict[float, str] = {}
    for phase, at in phases.items():
        last = next(reversed(labels), None)
        if last is not None and at - last < apart:
            labels[last] += f", {phase}"
        else:
            labels[at] = phase
    return labels
