"""`envoy.service.auth.v3.Authorization`: a proxy asks about each request before it passes it on."""

# ruff: noqa: N802 - the method carries the proto's name

from __future__ import annotations

from typing import Any, Final, Protocol

from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc

from citadel.access.decision import Decision
from citadel.clock import Clock
from citadel.errors import CitadelError, PermissionDenied, Reason, Unauthenticated
from citadel.request import HttpRequest
from sds.authz import answers
from sds.authz.asked import request_of
from sds.authz.counts import Decisions
from sds.authz.peers import Peer, PeerReader
from sds.authz.policies import Policies, PolicyAtWork
from sds.holdings import HoldingsFeed
from sds.serve.callers import Callers

SERVICE: Final = external_auth_pb2.DESCRIPTOR.services_by_name["Authorization"].full_name


class PolicySource(Protocol):
    """Where the policies come from that hold now."""

    @property
    def current(self) -> Policies:
        """Never changed, but replaced as a whole."""
        ...


class Authorization(external_auth_pb2_grpc.AuthorizationServicer):  # type: ignore[misc]  # xds-protos ships no types
    """Judges by the policy of the proxy that asks, which the kernel names. Whatever goes wrong refuses the request."""

    def __init__(
        self, *, callers: Callers, policies: PolicySource, feed: HoldingsFeed, decisions: Decisions, clock: Clock
    ) -> None:
        self._callers = callers
        self._policies = policies
        self._feed = feed
        self._decisions = decisions
        self._clock = clock
        self._peers = PeerReader()

    async def Check(self, request: Any, context: Any) -> Any:
        """Judge one request."""
        policy = rule = ""
        peer: Peer | None = None
        try:
            # 1. Which policy: by the process that asks, and by nothing that it says.
            at_work = await self._policy_of(context.peer())
            policy = at_work.rules.name
            # 2. What is asked for, and by which peer; what was revoked or ended long ago is refused.
            peer = self._peers.read(request.attributes.source)
            asked = self._asked(request, peer)
            # 3. For which end user, if for any: every token in the request must be good.
            known = await at_work.users.of(asked)
            # 4. Whether the rules allow it.
            decision = at_work.decide(asked, known)
            rule = decision.rule
            _require_allowed(decision)
        except CitadelError as error:
            self._decisions.refused(policy, rule, error, peer=peer.spiffe_id if peer is not None else None)
            return answers.refused(error)
        except Exception:
            # Whoever asked hears no more than that; an Envoy lets nothing through then (`failure_mode_allow: false`).
            self._decisions.refused(policy, rule, CitadelError(Reason.INTERNAL, "an unexpected error, see the log"))
            raise
        # 5. With what is known of the end user, and with nothing that somebody else wrote in its place.
        self._decisions.allowed(policy, rule)
        return known.passing

    async def _policy_of(self, context_peer: str) -> PolicyAtWork:
        policies = self._policies.current
        caller = self._callers.caller_of(context_peer)
        seen = await self._callers.attest(caller, wants_sha256=policies.wants_sha256)
        policy = policies.of(seen)
        if policy is None:
            facts = ", ".join(sorted(map(str, seen.selectors)))
            raise PermissionDenied(Reason.NO_POLICY, f"no policy is for a caller with {facts}")
        return policy

    def _asked(self, request: Any, peer: Peer | None) -> HttpRequest:
        if peer is None:
            return request_of(request, None)
        peer.check_not_revoked(self._feed.current)
        peer.check_not_long_ended(self._clock.now())
        return request_of(request, peer.spiffe_id)


def _require_allowed(decision: Decision) -> None:
    if decision.reason is not None:
        kind = Unauthenticated if decision.reason is Reason.SIGN_IN_REQUIRED else PermissionDenied
        raise kind(decision.reason, decision.words)
