"""What a person sees of the demo: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cli.demo.load import Tally
from cli.demo.observe import Sighting
from cli.demo.plan import TRUST_DOMAIN, Plan
from cli.demo.rotation import RootRotation


class Screen:
    """Tells what happens. Events stay on the screen; the table under them shows the present."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._serials: dict[str, str] = {}
        self._last_done = 0
        self._rotation = RootRotation()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, plan: Plan, tally: Tally, sightings: Sequence[Sighting]) -> None:
        """The present, and a line for each certificate that is new."""
        for seen in sightings:
            if seen.serial and self._serials.get(seen.name) != seen.serial:
                self._serials[seen.name] = seen.serial
                self.say(f"  {seen.name:<11} {seen.identity}  serial {seen.serial}  until {seen.expires}")
        if self._live is not None:
            self._live.update(_table(plan, tally, sightings, self._rotation), refresh=True)
        elif tally.done - self._last_done >= plan.requests // 5:
            self._last_done = tally.done
            self.say(f"  requests    {tally.done} done, {tally.failed} failed")

    def tell(self, rotation: RootRotation) -> None:
        """How far the rotation of the root is: a line for each phase that is over; the table shows the present one."""
        before, self._rotation = self._rotation, rotation
        if before.phase not in ("", rotation.phase):
            self.say(f"  {before.phase:<11} until {rotation.seconds:.1f} s: {_counts(before)}")
        if rotation.is_done:
            self.say(f"  {rotation.phase:<11} after {rotation.seconds:.1f} s: {_counts(rotation)}")


def _counts(rotation: RootRotation) -> str:
    counts = f"acknowledged by {rotation.acknowledged} of {rotation.proxies} proxies"
    return f"{counts}, {rotation.renewed} of {rotation.svids} SVIDs renewed" if rotation.svids else counts


def _table(plan: Plan, tally: Tally, sightings: Sequence[Sighting], rotation: RootRotation) -> Table:
    """Fits in 80 columns: what all rows share is left out."""
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        title=f"requests: {tally.done}/{plan.requests} done, {tally.failed} failed",
        caption=f"root: {rotation.phase}, {_counts(rotation)}" if rotation.phase else None,
    )
    for column in ("sidecar", "identity", "serial", "until", "rotated", "handshakes"):
        table.add_column(column, no_wrap=True)
    for seen in sightings:
        table.add_row(
            seen.name,
            seen.identity.removeprefix(str(TRUST_DOMAIN.id)),
            seen.serial[:12],
            seen.expires.partition("T")[2],
            str(seen.rotations),
            str(seen.handshakes),
        )
    return table
