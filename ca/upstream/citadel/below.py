"""What a server that has a parent passes on to it of the clusters below."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from cryptography.hazmat.primitives.serialization import Encoding

from ca.clusters.records import ChildRecords
from citadel._wire import clusters_pb2 as pb
from citadel._wire.rotation_pb2 import ClusterView
from citadel.jwk import JwtKey
from citadel.spiffe import SpiffeId


class PassedOn:
    """Fulfils `ca.upstream.citadel.reporting.Below`."""

    def __init__(
        self,
        *,
        records: ChildRecords,
        views: Callable[[], Sequence[ClusterView]],
        is_connected: Callable[[SpiffeId], bool],
    ) -> None:
        self._records = records
        self._views = views
        self._is_connected = is_connected

    def issuers(self) -> Iterable[pb.IssuerReport]:
        for child in self._records.children():
            said = self._records.said(child)
            lists = {each.issuer: each.der for each in said.lists} if said is not None else {}
            for authority in self._records.in_use(child):
                # Whoever is connected names an authority before it signs. Of one that is away nobody knows its list.
                if authority.certificate in lists or not self._is_connected(child):
                    yield pb.IssuerReport(
                        certificate=authority.certificate.public_bytes(Encoding.DER),
                        root_key_id=authority.root_key_id,
                        crl=lists.get(authority.certificate, b""),
                    )

    def jwt_keys(self) -> Mapping[str, JwtKey]:
        return self._records.jwt_keys()

    def clusters(self) -> Sequence[ClusterView]:
        return self._views()
