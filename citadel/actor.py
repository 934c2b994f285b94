"""Who acts, as it was proven."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from citadel.spiffe import SpiffeId


class ActorKind(StrEnum):
    """How the actor was told."""

    LOCAL = "local"  # a user of the server's machine, by the kernel's word
    SPIFFE = "spiffe"  # an identity, by mutual TLS
    ANONYMOUS = "anonymous"  # nobody that was proven
    SERVER = "server"  # the server by itself


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acted. `name` is `uid:0`, a SPIFFE ID, or an address.

    It is empty for the server itself, or says what the server follows there, such as `kubernetes:main`.
    """

    kind: ActorKind
    name: str = ""

    @classmethod
    def local(cls, uid: int) -> Actor:
        """A user of this machine, at the admin socket."""
        return cls(ActorKind.LOCAL, f"uid:{uid}")

    @classmethod
    def identity(cls, spiffe_id: SpiffeId) -> Actor:
        """An agent or a remote administrator."""
        return cls(ActorKind.SPIFFE, str(spiffe_id))

    @classmethod
    def kubernetes(cls, cluster: str) -> Actor:
        """The server, as it does what the state of a cluster asks for."""
        return cls(ActorKind.SERVER, f"kubernetes:{cluster}")

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.name}" if self.name else self.kind.value
