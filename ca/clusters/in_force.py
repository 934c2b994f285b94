"""What is to be trusted in every cluster of the trust domain, as it is now and as children are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.serialization import Encoding

from ca.api.answers import bundle_message
from ca.authority.manager import AuthorityManager
from ca.authority.model import Authority, AuthorityKind
from ca.rotation.gate import Trust
from ca.rotation.waiting import trust_now
from citadel._wire import clusters_pb2 as pb
from citadel._wire import types_pb2
from citadel.bundle import TrustBundle
from citadel.revocation import RevocationSet
from citadel.succession import Succession
from citadel.succession_wire import succession_to_wire


class PushedLists(Protocol):
    """The revocation lists; `ca.revocation.lists` is the one there is."""

    message: types_pb2.RevocationSet  # another object whenever it is another set

    @property
    def current(self) -> RevocationSet:
        """The same, as it is read here."""
        ...

    def watch(self, callback: Callable[[], None]) -> None:
        """Call `callback` at every change from now on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What a message was made of."""

    bundle: TrustBundle
    roots: tuple[Authority, ...]
    lists: str
    successions: tuple[Succession, ...]


class InForce:
    """The trust of this server as other clusters take it, with a version of each half of the bundle."""

    def __init__(self, *, authorities: AuthorityManager, lists: PushedLists) -> None:
        self._authorities = authorities
        self._lists = lists
        self._made: tuple[_Parts, pb.ClusterTrust] | None = None

    def watch(self, callback: Callable[[], None]) -> None:
        """Call `callback` at every change from now on."""
        self._authorities.watch(callback)
        self._lists.watch(callback)

    def trust(self, *, is_jwt: bool) -> Trust:
        """What everybody is to know of now, of one half of the bundle."""
        return trust_now(self._authorities, self._lists, is_jwt=is_jwt)

    def version(self, *, is_jwt: bool) -> str:
        """What stands for that: another text whenever it is something else."""
        trust = self.trust(is_jwt=is_jwt)
        return str(trust.sequence) if is_jwt else f"{trust.sequence}.{trust.lists}"

    def message(self) -> pb.ClusterTrust:
        """All that a child is told; the same object for as long as it is the same."""
        bundle = self._authorities.bundle()
        roots = (each for each in self._authorities.authorities() if each.kind is AuthorityKind.ROOT)
        parts = _Parts(
            bundle=bundle,
            # One that was made a moment ago comes with the bundle that has it, and its list.
            roots=tuple(each for each in roots if each.certificate in bundle.x509_authorities),
            lists=self._lists.current.version,
            successions=tuple(self._authorities.successions()),
        )
        if self._made is None or self._made[0] != parts:
            self._made = (parts, self._message(parts))
        return self._made[1]

    def _message(self, parts: _Parts) -> pb.ClusterTrust:
        return pb.ClusterTrust(
            versions=pb.KnownVersions(x509=self.version(is_jwt=False), jwt=self.version(is_jwt=True)),
            bundle=bundle_message(parts.bundle),
            roots=[
                pb.RootState(certificate=each.certificate.public_bytes(Encoding.DER), state=each.state.value)
                for each in parts.roots
            ],
            revocations=self._lists.message,
            revocations_are_whole=bool(parts.lists),
            successions=map(succession_to_wire, parts.successions),
        )
