"""What upstreams have in common that go by a list of roots."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509

from ca.authority.model import Authority, active_of
from ca.upstream.lineage import named
from ca.upstream.roots import ListedRoots
from citadel.succession import Succession


class ListingUpstream:
    """The part of `UpstreamAuthority` that says what is on record."""

    def __init__(self, roots: ListedRoots) -> None:
        self._roots = roots

    def roots(self) -> tuple[x509.Certificate, ...]:
        """What the bundle holds."""
        return self._roots.certificates()

    def successions(self) -> Sequence[Succession]:
        """What roots that are gone said of those after them."""
        return self._roots.successions()

    def authorities(self) -> tuple[Authority, ...]:
        """The roots with their states."""
        return self._roots.all

    def taint(self) -> str:
        """That a root is listed which is not to be trusted, for people; "" where none is."""
        tainted = next(iter(self._roots.tainted_and_listed()), None)
        return f"{named(tainted)}, a tainted root, which is never trusted again" if tainted is not None else ""

    def _active_root(self) -> Authority | None:
        return active_of(self._roots.all)

    def _root_to_sign(self, root_id: str) -> Authority | None:
        """The root of this id, or else the active one."""
        return self._roots.by_id(root_id) if root_id else self._active_root()
