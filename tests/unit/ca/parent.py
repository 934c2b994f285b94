"""A parent cluster as a child sees it: it signs, says what is to be trusted, and can be away or answer anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authority.certificates import build_issuer, build_root
from ca.authority.manager import AuthorityManager
from ca.issuance.csr import public_key_of
from ca.revocation.crl import build_crl
from ca.store.parent_trust import SqlParentTrust
from ca.upstream.citadel.authority import ParentAuthority
from ca.upstream.citadel.neighbour import ParentBeyond, ParentNeighbour
from citadel._wire import clusters_pb2 as pb
from citadel._wire import types_pb2
from citadel.bundle import TrustBundle
from citadel.errors import CitadelError, Reason, Unavailable
from citadel.jwk import JwtKey
from citadel.revocation import RevocationList
from citadel.wire import from_duration
from tests.clock import FakeClock
from tests.unit.ca.rotating import Disk, Fate, Fated, Server
from tests.unit.ca.values import A_TEST

BACKDATE: Final = timedelta(seconds=10)
_AWAY: Final = Unavailable(Reason.UPSTREAM_UNAVAILABLE, "the parent at parent:8444 cannot be reached")


@dataclass(frozen=True)
class Root:
    """A root of the parent; its revocation list holds nothing."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    state: str = "active"

    @classmethod
    def made(cls, clock: FakeClock, state: str = "active", *, days: int = 365) -> Root:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = build_root(
            trust_domain=A_TEST, key=key, now=clock.now(), lifetime=timedelta(days=days), backdate=BACKDATE
        )
        return cls(certificate, key, state)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def issuer(
        self, public_key: Any, clock: FakeClock, lifetime: timedelta, ahead: timedelta = timedelta(0)
    ) -> x509.Certificate:
        return build_issuer(
            trust_domain=A_TEST,
            public_key=public_key,
            root=self.certificate,
            root_key=self.key,
            not_before=clock.now() + ahead - BACKDATE,
            not_after=clock.now() + ahead + lifetime,
        )

    def revocation_list(self) -> types_pb2.RevocationList:
        crl = build_crl(issuer=self.certificate, key=self.key, number=1, revoked=())
        return types_pb2.RevocationList(issuer=self.der, crl=crl.public_bytes(Encoding.DER))


@dataclass
class FakeParent:
    """Outlives the processes of its child. It knows what the child reported when `hear` was called last."""

    clock: FakeClock
    ahead: timedelta = timedelta(0)  # of the child's clock
    roots: list[Root] = field(default_factory=list)
    is_away: bool = False
    refusal: CitadelError | None = None
    answers: Callable[[pb.SignIssuerRequest, pb.SignIssuerResponse], pb.SignIssuerResponse] = lambda _, answer: answer
    keys: Mapping[str, JwtKey] = field(default_factory=dict)
    lists: list[RevocationList] = field(default_factory=list)
    are_whole: bool = True
    everybody_knows: bool = True
    asked: int = 0
    _lists_of_roots: dict[bytes, types_pb2.RevocationList] = field(default_factory=dict)
    current: Child | None = None

    def __post_init__(self) -> None:
        self.roots = self.roots or [Root.made(self.clock)]

    @property
    def active(self) -> Root:
        return next(root for root in self.roots if root.state == "active")

    # The child's view of it; fulfils `Asked`.

    @property
    def is_heard(self) -> bool:
        return self.current is not None and self.current.is_heard

    def trouble(self) -> CitadelError | None:
        return _AWAY if self.is_away else None

    def misfit(self) -> CitadelError | None:
        return None

    async def sign_issuer(self, request: pb.SignIssuerRequest) -> pb.SignIssuerResponse:
        self.asked += 1
        if (refusal := self.trouble() or self.refusal) is not None:
            raise refusal
        lifetime = from_duration(request.lifetime)
        issuer = self.active.issuer(public_key_of(request.csr), self.clock, lifetime, self.ahead)
        answer = pb.SignIssuerResponse(chain=[issuer.public_bytes(Encoding.DER)], root=self.active.der)
        return self.answers(request, answer)

    # What it does.

    def trust(self) -> pb.ClusterTrust:
        bundle = TrustBundle(
            trust_domain=A_TEST,
            x509_authorities=tuple(root.certificate for root in self.roots),
            jwt_authorities=self.keys,
        )
        lists = [self._lists_of_roots.setdefault(root.der, root.revocation_list()) for root in self.roots]
        lists += [
            types_pb2.RevocationList(issuer=each.issuer.public_bytes(Encoding.DER), crl=each.der) for each in self.lists
        ]
        trust = pb.ClusterTrust(
            bundle=types_pb2.Bundle(trust_domain=A_TEST.name, json=bundle.to_json()),
            roots=[pb.RootState(certificate=root.der, state=root.state) for root in self.roots],
            revocations=types_pb2.RevocationSet(lists=lists),
            revocations_are_whole=self.are_whole,
        )
        said = [each.crl for each in sorted(lists, key=lambda each: each.issuer)]
        x509_half = f"{bundle.x509_digest()}{hash(tuple(said))}"
        trust.versions.CopyFrom(pb.KnownVersions(x509=x509_half, jwt=bundle.jwt_digest()))
        return trust

    async def say(self) -> None:
        """What is to be trusted, and what everybody has acknowledged, to the process that is there."""
        if self.current is None or self.is_away:
            return
        trust = self.trust()
        await self.current.authority.take(pb.ClusterUpdate(trust=trust))
        self.current.is_heard = True
        known = trust.versions if self.everybody_knows else pb.KnownVersions()
        await self.current.authority.take(pb.ClusterUpdate(everywhere=known))

    async def hear(self, server: Server) -> None:
        """Take up what the child has to report: its lists and its keys."""
        self.lists = [each for each in _lists_from(server) if not each.is_of_root]
        self.keys = {**server.records.jwt_keys(), **server.authorities.jwt.published()}
        await self.say()

    def set_state(self, number: int, state: str) -> None:
        self.roots[number] = replace(self.roots[number], state=state)

    def above(self, disk: Disk, fate: Fate, *, keys: Any, store: Any) -> Child:
        """A process begins."""
        kept: Any = Fated(SqlParentTrust(database=disk.database, trust_domain=A_TEST), fate)
        authority = ParentAuthority(trust_domain=A_TEST, keys=keys, store=store, kept=kept, clock=disk.clock)
        authority.ask(self)
        self.current = Child(authority, self)
        return self.current


class Child:
    """One process of the child, as far as the parent is concerned."""

    def __init__(self, authority: ParentAuthority, parent: FakeParent) -> None:
        self.authority = authority
        self.parent = parent
        self.neighbour = ParentNeighbour(authority, withdrawn=self._withdrawn)
        self.is_heard = False
        self.manager: AuthorityManager | None = None
        self.server: Server | None = None
        self.beyond = ParentBeyond(
            authority=authority,
            parent=parent,
            own_lists=lambda: _lists_from(self.server) if self.server is not None else (),
            own_keys=lambda: self.server.authorities.jwt.published() if self.server is not None else {},
        )

    def _withdrawn(self) -> frozenset[str]:
        server = self.server
        return server.tokens.withdrawn() | server.records.withdrawn_jwt_keys() if server is not None else frozenset()

    async def started(self, server: Server) -> None:
        self.server = server
        await self.authority.settle_by(server.authorities)


def _lists_from(server: Server) -> list[RevocationList]:
    """Those of the child, and of the clusters below it."""
    return [*server.lists.own, *(server.records.lists() or ())]
