"""Who may send a request to each TLS door, before it is read."""

from __future__ import annotations

from contextlib import AbstractContextManager
from ipaddress import IPv6Address, ip_address
from typing import Any, Final, Protocol
from urllib.parse import unquote

from grpc_health.v1 import health_pb2

from ca.agents.roster import AgentRoster
from ca.api.settings import LimitSettings
from citadel._wire import agent_api_pb2, clusters_pb2, istio_ca_pb2
from citadel.errors import Reason, Unauthenticated
from citadel.in_flight import InFlight
from citadel.spiffe import SpiffeId

_AGENT_API: Final = f"/{agent_api_pb2.DESCRIPTOR.services_by_name['AgentApi'].full_name}/"
_CLUSTERS: Final = f"/{clusters_pb2.DESCRIPTOR.services_by_name['Clusters'].full_name}/"
_ISTIO_CA: Final = f"/{istio_ca_pb2.DESCRIPTOR.services_by_name['IstioCertificateService'].full_name}/"
_PROXY_ADDRESSES: Final = 4  # one may have one in so many of the calls of proxies
_HEALTH: Final = f"/{health_pb2.DESCRIPTOR.services_by_name['Health'].full_name}/"
_MOST_HEALTH: Final = 64  # calls of each kind, for which any identity will do, or none
_MOST_HEALTH_OF_ONE: Final = 16


class Children(Protocol):
    """Recognises the servers of child clusters; `ca.clusters.callers` is the one there is."""

    def recognise(self, leaf_pem: bytes) -> SpiffeId:
        """Who it is. Raises the refusal."""
        ...


class _HealthRoom:
    """Room for those who ask for health, by address, apart from whoever has work to do.

    A watch never ends by itself and costs nothing to keep: who keeps many takes the room of other watches, and no more.
    """

    def __init__(self) -> None:
        self._watches, self._checks = (
            InFlight(most=_MOST_HEALTH, most_of_one=_MOST_HEALTH_OF_ONE, what=what)
            for what in ("watches of health", "checks of health")
        )

    def admit(self, method: str, context: Any) -> AbstractContextManager[None]:
        calls = self._watches if method == f"{_HEALTH}Watch" else self._checks
        return calls.one(address(context))


class AgentGate:
    """Lets agents in that are on record, and servers of child clusters, each with `most_of_one` calls at a time.

    The TLS layer takes every identity of the trust domain, workloads' too.
    """

    def __init__(self, *, roster: AgentRoster, children: Children, most_of_one: int) -> None:
        self._roster = roster
        self._children = children
        self._known = InFlight(most_of_one=most_of_one, what="calls")
        self._health = _HealthRoom()

    def admit(self, method: str, context: Any) -> AbstractContextManager[None]:
        if method.startswith(_AGENT_API):
            return self._known.one(self._roster.recognise(leaf_pem(context)).spiffe_id)
        if method.startswith(_CLUSTERS):
            return self._known.one(self._children.recognise(leaf_pem(context)))
        return self._health.admit(method, context)


class AnonymousGate:
    """Lets anybody in, with `calls` in all and for each address.

    Istio's proxies prove themselves by each call alone, and all those of a node, or of a cluster, may come from one
    address: `proxies` counts them apart, so that neither they nor anybody else is kept waiting by the others. Nor is
    anybody by those who ask for health.
    """

    def __init__(self, calls: InFlight, *, proxies: InFlight) -> None:
        self._calls = calls
        self._proxies = proxies
        self._health = _HealthRoom()

    def admit(self, method: str, context: Any) -> AbstractContextManager[None]:
        if method.startswith(_HEALTH):
            return self._health.admit(method, context)
        calls = self._proxies if method.startswith(_ISTIO_CA) else self._calls
        return calls.one(address(context))


def proxy_calls(limits: LimitSettings) -> InFlight:
    """Room for Istio's proxies.

    A quarter of it is for one address: by default as many as a large node has pods, which one address may hide. Whoever
    keeps calls open with tokens of nothing, which costs nothing, does not take the place of all others so.
    """
    return InFlight(most=limits.proxy_calls, most_of_one=max(1, limits.proxy_calls // _PROXY_ADDRESSES), what="calls")


def leaf_pem(context: Any) -> bytes:
    """The certificate that the TLS layer verified. Raises `Unauthenticated` where there is none."""
    certificates = context.auth_context().get("x509_pem_cert", ())
    if not certificates:
        raise Unauthenticated(Reason.AGENT_SVID_REFUSED, "this listener needs a client certificate")
    return bytes(certificates[0])


def address(context: Any) -> str:
    """Where a call comes from, as limits count: a host by IPv4, and by IPv6 the /64 that one host can have whole."""
    # "ipv4:10.0.0.7:41234" or "ipv6:%5Bfe80::1%25eth0%5D:41234": the port changes with every connection.
    kind, _, rest = str(context.peer()).rpartition(":")[0].partition(":")
    if kind != "ipv6":
        return f"{kind}:{rest}"
    found = ip_address(unquote(rest).strip("[]"))
    if not isinstance(found, IPv6Address) or found.ipv4_mapped is not None:
        return f"ipv4:{getattr(found, 'ipv4_mapped', None) or found}"
    return f"ipv6:{IPv6Address(int(found) >> 64 << 64)}/64"
