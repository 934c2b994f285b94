"""What the agent keeps for its workloads, wired: their certificates and tokens, and the credentials of gateways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from citadel._wire import agent_api_pb2_grpc
from cli.agent_credentials import GatewayCredentials
from cli.agent_foundation import AgentFoundation
from sds.keep.keeper import Keeper
from sds.link.signing import RemoteSigner, RemoteTokenSigner
from sds.tokens.keeper import TokenKeeper


@dataclass(frozen=True, kw_only=True)
class AgentKeeping:
    """All of it is made on the node, or had from the server; nothing is asked for yet."""

    keeper: Keeper
    tokens: TokenKeeper
    credentials: GatewayCredentials


def agent_keeping(base: AgentFoundation, api: Callable[[], agent_api_pb2_grpc.AgentApiAsyncStub]) -> AgentKeeping:
    """The parts. `api` is the line to the server that is in use; there is one before they are run."""
    settings, insight = base.settings, base.insight
    tokens = TokenKeeper(
        trust_domain=settings.trust_domain,
        feed=base.feed,
        signer=insight.metered_tokens(RemoteTokenSigner(api=api)),
        clock=base.clock,
        per_second=settings.limits.jwt_svids_per_second_per_uid,
        on_refusal=insight.tally.count_refused,
    )
    credentials = GatewayCredentials(
        feed=base.feed, api=api, on_refusal=insight.tally.count_refused, random=base.random, clock=base.clock
    )
    keeper = Keeper(
        trust_domain=settings.trust_domain,
        key_kind=settings.workload_key,
        feed=base.feed,
        signer=insight.metered(RemoteSigner(api=api)),
        reconnect=settings.reconnect,
        clock=base.clock,
        random=base.random,
        renew_at=settings.renewal.at,
    )
    return AgentKeeping(keeper=keeper, tokens=tokens, credentials=credentials)
