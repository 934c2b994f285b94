"""What upstream `citadel` needs of the world."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from ca.authority.model import Authority
from citadel._wire import clusters_pb2 as pb
from citadel.errors import CitadelError


class TrustStore(Protocol):
    """Where it is durable what the parent said last."""

    async def load(self) -> bytes | None:
        """It, or None where the parent was never heard."""
        ...

    async def keep(self, trust: bytes, *, at: datetime) -> None:
        """Keep this in the place of what was kept."""
        ...


class Changing(Protocol):
    """What puts bundle and lists in force; `ca.authority.manager` is the one there is."""

    def changing_upstream(self) -> AbstractAsyncContextManager[None]:
        """Change what the upstream says within this."""
        ...

    def issuers(self) -> Sequence[Authority]:
        """The issuing authorities on record."""
        ...


class Asked(Protocol):
    """The parent as it is asked; `ca.upstream.citadel.parent` is the one there is."""

    @property
    def is_heard(self) -> bool:
        """Whether it has said what is to be trusted, since this process began."""
        ...

    def trouble(self) -> CitadelError | None:
        """Why it would not answer now."""
        ...

    def misfit(self) -> CitadelError | None:
        """Why it is no parent for this server, where that is known: no waiting mends it."""
        ...

    async def sign_issuer(self, request: pb.SignIssuerRequest) -> pb.SignIssuerResponse:
        """Its answer. Raises its refusal, or `Unavailable` (`upstream_unavailable`)."""
        ...
