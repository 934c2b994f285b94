"""What a run of the demo is: folders, names, numbers. Values only."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from pathlib import Path
from typing import Final

from citadel.reserved import agent_id
from citadel.selector import Selector
from citadel.spiffe import SpiffeId, TrustDomain

TRUST_DOMAIN: Final = TrustDomain("demo.citadel.example")
AGENT_NAME: Final = "node-1"
# Between a proxy's acknowledgement and the first use of what it acknowledged: the least that the setting takes.
LEAST_MARGIN: Final = timedelta(milliseconds=500)
# One uid per sidecar, from a range that distributions leave to the administrator.
_FIRST_UID: Final = 61180


class Ending(Enum):
    """How a run ended. One that was interrupted has shown nothing, good or bad."""

    GOOD = auto()
    BROKEN = auto()
    INTERRUPTED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """One Envoy and the workload behind it. `uid` is None for an ordinary user, whose processes all have one uid."""

    name: str
    folder: Path
    uid: int | None
    admin_port: int
    listen_port: int

    @property
    def spiffe_id(self) -> SpiffeId:
        """The identity that its entry gives, if it has one."""
        return TRUST_DOMAIN.member("bookinfo", self.name)

    @property
    def executable(self) -> Path:
        """Its own copy of Envoy, so that sidecars of one user can be told apart by path."""
        return self.folder / "envoy"

    @property
    def selector(self) -> Selector:
        """What tells this sidecar from every other process."""
        if self.uid is not None:
            return Selector("unix", f"uid:{self.uid}")
        return Selector("unix", f"path:{self.executable}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that a run needs to know."""

    folder: Path
    requests: int
    least_rotations: int
    leaf_lifetime: timedelta
    pace: float
    most_seconds: float
    keep: bool
    productpage: Sidecar
    reviews: Sidecar
    stranger: Sidecar
    bootstrap_port: int
    agents_port: int
    server_probes_port: int
    agent_probes_port: int
    app_port: int
    app_v2_port: int
    issuer_port: int
    as_root: bool
    vault: bool
    vault_port: int
    vault_cluster_port: int

    @property
    def sidecars(self) -> tuple[Sidecar, Sidecar, Sidecar]:
        """Two with entries, one without."""
        return (self.productpage, self.reviews, self.stranger)

    @property
    def admin_socket(self) -> Path:
        """The server's admin socket."""
        return self.folder / "server" / "admin.sock"

    @property
    def agent_socket(self) -> Path:
        """The agent's socket, which every sidecar may connect to."""
        return self.folder / "run" / "agent.sock"

    @property
    def agent_admin_socket(self) -> Path:
        """The agent's own admin socket."""
        return self.folder / "agent" / "admin.sock"

    @property
    def user_token(self) -> Path:
        """What jason shows, for whoever looks around."""
        return self.folder / "jason.jwt"

    @property
    def agent_id(self) -> SpiffeId:
        """The agent's identity."""
        return agent_id(TRUST_DOMAIN, AGENT_NAME)


def make_plan(
    *,
    folder: Path,
    requests: int,
    leaf_lifetime: timedelta,
    pace: float,
    most_seconds: float,
    keep: bool,
    as_root: bool,
    vault: bool = False,
) -> Plan:
    """A plan with free ports, and a uid for each sidecar where it is for root."""
    ports = iter(_free_ports(15))

    def sidecar(number: int, name: str) -> Sidecar:
        return Sidecar(
            name=name,
            folder=folder / name,
            uid=_FIRST_UID + number if as_root else None,
            admin_port=next(ports),
            listen_port=next(ports),
        )

    return Plan(
        folder=folder,
        requests=requests,
        least_rotations=3,
        leaf_lifetime=leaf_lifetime,
        pace=pace,
        most_seconds=most_seconds,
        keep=keep,
        productpage=sidecar(0, "productpage"),
        reviews=sidecar(1, "reviews"),
        stranger=sidecar(2, "stranger"),
        bootstrap_port=next(ports),
        agents_port=next(ports),
        server_probes_port=next(ports),
        agent_probes_port=next(ports),
        app_port=next(ports),
        app_v2_port=next(ports),
        issuer_port=next(ports),
        as_root=as_root,
        vault=vault,
        vault_port=next(ports),
        vault_cluster_port=next(ports),
    )


def _free_ports(number: int) -> list[int]:
    # All are held at once so that no two are the same; another process can still take one before it is used.
    holders = [socket.socket() for _ in range(number)]
    try:
        for holder in holders:
            holder.bind(("127.0.0.1", 0))
        return [int(holder.getsockname()[1]) for holder in holders]
    finally:
        for holder in holders:
            holder.close()
