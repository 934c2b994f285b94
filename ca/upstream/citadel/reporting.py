"""What the parent is told: what this cluster knows, who signs here, and how it is with its mesh."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from cryptography.hazmat.primitives.serialization import Encoding

from ca.authority.manager import AuthorityManager
from ca.authority.model import AuthorityKind
from ca.rotation.census import Census
from ca.rotation.model import Holder, Rotation
from ca.upstream.citadel.authority import ParentAuthority
from citadel._wire import clusters_pb2 as pb
from citadel._wire import rotation_pb2, types_pb2
from citadel.bundle import TrustBundle
from citadel.jwk import JwtKey
from citadel.revocation import RevocationList
from citadel.wire import to_timestamp

_SOON: Final = 0.05  # seconds, while somebody is waited for
_SELDOM: Final = 1.0
_MOST_HOLDERS: Final = 10


class Knowing(Protocol):
    """Whether everybody here, and below, knows what is in force; `ca.clusters.knowing` is the one there is."""

    def version(self, *, is_jwt: bool) -> str:
        """What is in force now, of one half of the bundle."""
        ...

    def known(self, *, is_jwt: bool) -> str:
        """The newest of these that everybody has acknowledged."""
        ...

    def holders(self, *, is_jwt: bool) -> Sequence[Holder]:
        """Who has not acknowledged what is in force."""
        ...

    def census(self, *, order_id: str) -> Census:
        """Counts over the mesh."""
        ...

    def watch(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever everybody knows something new."""
        ...


class Below(Protocol):
    """The clusters below this one."""

    def issuers(self) -> Iterable[pb.IssuerReport]:
        """Their issuing authorities, with lists."""
        ...

    def jwt_keys(self) -> Mapping[str, JwtKey]:
        """Their keys for tokens."""
        ...

    def clusters(self) -> Sequence[rotation_pb2.ClusterView]:
        """How it is with them."""
        ...


class OwnLists(Protocol):
    """The lists of this server's own authorities."""

    @property
    def own(self) -> Sequence[RevocationList]:
        """Of those that have one, whatever others say."""
        ...


class Reporting:
    """What the parent is told."""

    def __init__(
        self,
        *,
        authority: ParentAuthority,
        manager: AuthorityManager,
        lists: OwnLists,
        knowing: Knowing,
        running: Callable[[], Rotation | None],
        below: Below,
    ) -> None:
        self._authority = authority
        self._manager = manager
        self._lists = lists
        self._knowing = knowing
        self._running = running
        self._below = below

    @property
    def is_calm(self) -> bool:
        """Whether nothing is under way, so that it changes seldom."""
        return self._running() is None and all(self._is_known(is_jwt=half) for half in (False, True))

    def report(self) -> pb.ClusterReport:
        """All of it, as it is now."""
        issuers = [*self._issuers(), *self._below.issuers()]
        keys = {**self._below.jwt_keys(), **self._manager.jwt.published()}
        domain = self._manager.bundle().trust_domain
        bundle = TrustBundle(trust_domain=domain, jwt_authorities=keys)
        in_force = self._authority.in_force
        return pb.ClusterReport(
            acknowledged=pb.KnownVersions(
                x509=in_force.x509 if self._is_known(is_jwt=False) else "",
                jwt=in_force.jwt if self._is_known(is_jwt=True) else "",
            ),
            issuers=issuers,
            jwt_keys=types_pb2.Bundle(trust_domain=domain.name, json=bundle.to_json()),
            lists_are_whole=all(each.crl for each in issuers),
            own=self._own_view(),
            below=self._below.clusters(),
        )

    def _is_known(self, *, is_jwt: bool) -> bool:
        return self._knowing.known(is_jwt=is_jwt) == self._knowing.version(is_jwt=is_jwt)

    def _issuers(self) -> Iterable[pb.IssuerReport]:
        authorities = self._manager.authorities()
        roots = {each.id: each.subject_key_id for each in authorities if each.kind is AuthorityKind.ROOT}
        lists = {each.issuer: each.der for each in self._lists.own}
        for issuer in self._manager.issuers():
            if (root := roots.get(issuer.parent_id or "")) is not None:
                yield pb.IssuerReport(
                    certificate=issuer.certificate.public_bytes(Encoding.DER),
                    root_key_id=root,
                    crl=lists.get(issuer.certificate, b""),
                )

    def _own_view(self) -> rotation_pb2.ClusterView:
        running = self._running()
        census = self._knowing.census(order_id=running.id if running is not None else "")
        holders = {each.name: each for half in (False, True) for each in self._knowing.holders(is_jwt=half)}
        return rotation_pb2.ClusterView(
            agents=census.agents,
            agents_away=census.agents_away,
            proxies=census.proxies,
            proxies_acknowledged=census.proxies_acknowledged,
            svids=census.svids,
            svids_renewed=census.svids_renewed,
            holders=[_holder(each) for each in list(holders.values())[:_MOST_HOLDERS]],
            holder_count=len(holders),
            phase=running.phase.value if running is not None else "",
        )


class LateReporting:
    """Fulfils `ca.upstream.citadel.follow.Reports`: the parent is followed before there is anything to say."""

    def __init__(self) -> None:
        self._reporting: Reporting | None = None
        self._events: list[asyncio.Event] = []

    def begin(self, reporting: Reporting) -> None:
        """Everything has started."""
        self._reporting = reporting
        self.news()

    def news(self) -> None:
        """Something of what is told may have changed."""
        for event in self._events:
            event.set()

    def now(self) -> pb.ClusterReport | None:
        # An empty report would say that nobody signs here, whose lists then vanish everywhere.
        return self._reporting.report() if self._reporting is not None else None

    @property
    def look_again(self) -> float:
        return _SOON if self._reporting is not None and not self._reporting.is_calm else _SELDOM

    def watch(self, event: asyncio.Event) -> None:
        self._events.append(event)

    def unwatch(self, event: asyncio.Event) -> None:
        self._events.remove(event)


def _holder(holder: Holder) -> rotation_pb2.Holder:
    until = to_timestamp(holder.until) if holder.until is not None else None
    return rotation_pb2.Holder(name=holder.name, words=holder.words, until=until)
