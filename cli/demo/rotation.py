"""A rotation of the root, started and watched over the admin socket as `citadel-cli rotate root` does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from citadel._wire import rotation_pb2 as pb
from citadel._wire.rotation_pb2_grpc import RotationsStub
from citadel.wire import from_timestamp, to_duration
from cli.demo.envoy import EnvoyAdmin, Roots
from cli.demo.mesh import Mesh


@dataclass(frozen=True, slots=True, kw_only=True)
class RootRotation:
    """The rotation as it was seen last; `phase` is "" where it has not begun.

    `seconds` is how long it had run when it entered the phase. Once it is over, `root` is the new one, and `roots` has
    what each Envoy works with, by the name of its sidecar.
    """

    phase: str = ""
    seconds: float = 0.0
    proxies: int = 0
    acknowledged: int = 0
    svids: int = 0
    renewed: int = 0
    waits_for: Sequence[str] = ()
    alarm: str = ""
    root: str = ""
    roots: Mapping[str, Roots] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether it has come to its end, and was not undone."""
        return self.phase == "done"


class RootRotator:
    """Rotates the root once. `seen` is how far it is, and how it ended."""

    def __init__(self, mesh: Mesh, envoys: Mapping[str, EnvoyAdmin], *, tell: Callable[[RootRotation], None]) -> None:
        self._mesh = mesh
        self._envoys = envoys
        self._tell = tell
        self.seen = RootRotation()

    async def run(self) -> None:
        """From the wish to the end, with the SVIDs renewed at once; then ask the Envoys what they trust."""
        wish = pb.StartRotationRequest(kind="root", window=to_duration(timedelta(0)), why="the demo")
        async with self._mesh.admin_channel() as channel:
            rotations = RotationsStub(channel)
            await rotations.StartRotation(wish)
            async for view in rotations.WatchRotation(pb.WatchRotationRequest()):
                self.seen = _parse(view)
                self._tell(self.seen)
        authorities = (await self._mesh.status()).authorities
        active = (each.serial for each in authorities if (each.kind, each.state) == ("root", "active"))
        roots = {name: await admin.roots() for name, admin in self._envoys.items()}
        self.seen = replace(self.seen, root=next(active, ""), roots=roots)


def _parse(view: pb.RotationView) -> RootRotation:
    rotation = view.rotation
    since_start = from_timestamp(rotation.phase_since) - from_timestamp(rotation.started_at)
    return RootRotation(
        phase=rotation.phase,
        seconds=since_start.total_seconds(),
        proxies=view.proxies,
        acknowledged=view.proxies_acknowledged,
        svids=view.svids,
        renewed=view.svids_renewed,
        waits_for=[f"{holder.name}: {holder.words}" for holder in view.holders],
        alarm=rotation.alarm,
    )
