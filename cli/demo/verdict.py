"""Whether the demo has shown what it promises (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cli.demo.load import Tally
from cli.demo.observe import Sighting
from cli.demo.plan import Plan
from cli.demo.rotation import RootRotation
from cli.demo.visits import Visit


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """How a caller without a right was answered; `words` is "" where it was let in."""

    who: str
    words: str


def is_enough(plan: Plan, tally: Tally, sightings: Sequence[Sighting]) -> bool:
    """Whether the load may end: requests are many enough, and every side has rotated often enough."""
    return tally.done >= plan.requests and all(seen.rotations >= plan.least_rotations for seen in sightings)


def problems(
    plan: Plan,
    tally: Tally,
    sightings: Sequence[Sighting],
    rotation: RootRotation,
    visits: Sequence[Visit],
    refusals: Sequence[Refusal],
) -> list[str]:
    """What broke, in words; nothing if all was as promised."""
    found = [f"{count} requests failed: {what}" for what, count in tally.failures.most_common(5)]
    if tally.done < plan.requests:
        found.append(f"only {tally.done} of {plan.requests} requests were made")
    for seen in sightings:
        if seen.rotations < plan.least_rotations:
            found.append(f"{seen.name} rotated {seen.rotations} times instead of {plan.least_rotations}")
        if seen.handshakes < tally.done:
            found.append(f"{seen.name} made {seen.handshakes} TLS handshakes for {tally.done} requests")
    found += _problems_of(rotation)
    found += [
        f"{visit.who} got {visit.seen} instead of {visit.expected}" for visit in visits if visit.seen != visit.expected
    ]
    found += [f"{refusal.who} was let in" for refusal in refusals if not refusal.words]
    return found


def _problems_of(rotation: RootRotation) -> list[str]:
    if not rotation.phase:
        return ["the root was not rotated"]
    found = [f"the rotation of the root raised an alarm: {rotation.alarm}"] if rotation.alarm else []
    if not rotation.is_done:
        waits = "; ".join(rotation.waits_for)
        found.append(f"the rotation of the root is not done but in {rotation.phase}, waiting for {waits or 'nobody'}")
    for name, roots in rotation.roots.items():
        if roots.own != {rotation.root}:
            found.append(f"the certificate of {name} does not hang on the new root")
        if roots.trusted != {rotation.root}:
            found.append(f"{name} trusts {len(roots.trusted)} roots instead of the new one alone")
    return found
