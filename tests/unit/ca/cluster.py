"""A child cluster, played by hand beside the nodes of `tests.unit.ca.rotating`."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca.audit.model import Act, Actor
from ca.clusters.callers import Child
from ca.clusters.model import ChildAuthority
from ca.clusters.sessions import ChildSession
from citadel._wire import clusters_pb2 as pb
from citadel._wire import rotation_pb2, types_pb2
from citadel.bundle import TrustBundle
from citadel.jwk import JwtKey
from citadel.spiffe import SpiffeId
from citadel.svid import X509Svid
from tests.children import ChildIssuer, child_csr
from tests.csrs import new_key
from tests.unit.ca.rotating import DAY, Server
from tests.unit.ca.values import A_TEST, NODE_1, entry

EAST: Final = SpiffeId(A_TEST, "/cluster/east")
WEST: Final = SpiffeId(A_TEST, "/cluster/west")


class Cluster:
    """It acknowledges at once and changes to a new root by itself, except as told."""

    def __init__(self, spiffe_id: SpiffeId = EAST) -> None:
        self.spiffe_id = spiffe_id
        self.is_silent = False  # its mesh acknowledges nothing
        self.stays = False  # it does not change to a new root
        self.own = rotation_pb2.ClusterView(proxies=3, proxies_acknowledged=3)
        self.below: list[rotation_pb2.ClusterView] = []
        self.issuers: list[ChildIssuer] = []
        self.keys: dict[str, JwtKey] = {}
        self.trust = pb.ClusterTrust()
        self.everywhere = pb.KnownVersions()
        self.session: ChildSession | None = None
        self._acknowledged = pb.KnownVersions()
        self._said = pb.ClusterReport()
        self._asking = ExitStack()
        self._server: Server | None = None

    async def join(self, server: Server, *, lifetime: timedelta = DAY) -> None:
        """Become a child of this parent, with an authority of its own."""
        self._server = server
        server.others.append(self)
        if server.directory.downstream.of(self.spiffe_id, server.clock.now()) is None:
            made = entry(self.spiffe_id.path, NODE_1, downstream=True)
            server.directory.put(made, revision=server.directory.revision + 1)
        self.connect()
        if not self.issuers:
            await self.sign(lifetime)

    async def sign(self, lifetime: timedelta = DAY, *, key: ec.EllipticCurvePrivateKey | None = None) -> ChildIssuer:
        """A new authority under the root that signs now, which its next report names."""
        server, key = self._parent, key or new_key()
        signed = await server.authorities.sign_downstream(child_csr(key), lifetime=lifetime)
        issuer = ChildIssuer(key, signed.chain, signed.root)
        authority = ChildAuthority(
            child=self.spiffe_id,
            certificate=issuer.certificate,
            root_key_id=issuer.root_key_id,
            signed_at=server.clock.now(),
        )
        act = Act(actor=Actor.identity(self.spiffe_id), what="downstream.sign")
        await server.records.record(authority, act)
        self.issuers.append(issuer)
        return issuer

    def connect(self) -> None:
        server = self._parent
        child = Child(svid=X509Svid(self.spiffe_id, ()), issuer_id="")
        self.session = ChildSession(child=child, connected_at=server.clock.now())
        self._said = pb.ClusterReport()
        server.book.open(self.session)
        self._asking.enter_context(server.knowing.asked())

    def leave(self) -> None:
        if self.session is not None:
            self._parent.book.close(self.session, at=self._parent.clock.now())
        self.session = None
        self._asking.close()

    async def turn(self) -> None:
        """Take what the parent says, do it, and say so."""
        if self.session is None:
            return
        server = self._parent
        for update in self.session.updates(server.in_force.message(), server.everywhere.now()):
            if update.HasField("trust"):
                self.trust = update.trust
            else:
                self.everywhere = update.everywhere
        if not self.is_silent:
            self._acknowledged = self.trust.versions
        if not self.stays:
            await self._change()
        report = self.report()
        if report != self._said:
            self._said = report
            await server.keeping.take(self.session, report)

    def report(self) -> pb.ClusterReport:
        jwt_keys = TrustBundle(trust_domain=A_TEST, jwt_authorities=self.keys).to_json()
        return pb.ClusterReport(
            acknowledged=self._acknowledged,
            issuers=[each.reported() for each in self.issuers],
            jwt_keys=types_pb2.Bundle(trust_domain=A_TEST.name, json=jwt_keys),
            own=self.own,
            below=self.below,
        )

    def states(self) -> dict[bytes, str]:
        """The states of roots, as it was told."""
        return {each.certificate: each.state for each in self.trust.roots}

    async def _change(self) -> None:
        """As its own rotation does: a new authority, then everybody has its list, and then the old one goes."""
        roots = [(each, self.states().get(each.root.public_bytes(Encoding.DER))) for each in self.issuers]
        if roots and roots[-1][1] in ("old", "tainted"):
            await self.sign()
        elif len(roots) > 1 and self._is_known_everywhere(self.issuers[-1]):
            self.issuers = self.issuers[-1:]

    def _is_known_everywhere(self, issuer: ChildIssuer) -> bool:
        has_list = any(each.crl == issuer.crl() for each in self.trust.revocations.lists)
        return has_list and self.everywhere.x509 == self.trust.versions.x509

    @property
    def _parent(self) -> Server:
        assert self._server is not None
        return self._server


def ends(cluster: Cluster) -> datetime:
    """When the last authority ends that was signed for it."""
    return max(each.certificate.not_valid_after_utc for each in cluster.issuers)
