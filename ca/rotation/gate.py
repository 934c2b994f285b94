"""Who a rotation waits for: invariants 3 and 4 as rules over what agents report. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from ca.insight.words import what_it_said, who_is
from ca.rotation.model import Holder
from citadel._wire import agent_api_pb2 as pb
from citadel._wire import types_pb2
from citadel.errors import CitadelError
from citadel.kubernetes.credential_names import is_credential_name
from citadel.wire import from_timestamp

# Envoy looks for an agent that was away at intervals of up to 30 s.
PROXIES_ARE_BACK: Final = timedelta(seconds=35)

_STATE = types_pb2.ResourceReport
_TOO_MANY: Final = "the agent has more streams than are remembered"


@dataclass(frozen=True, slots=True)
class Closed:
    """A stream that was closed so long ago, while its process goes on with what it was given."""

    report: types_pb2.StreamReport
    ago: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentView:
    """One connected agent as its newest session has it."""

    name: str
    acknowledged_bundle: int
    acknowledged_lists: str
    has_reported: bool
    is_over: bool
    own_issuer: bytes
    own_ends: datetime | None
    streams: Sequence[types_pb2.StreamReport]
    progress: pb.OrderProgress | None
    closed: Sequence[Closed] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What everybody must know before something new signs: the bundle with `sequence` or a later one, and its lists.

    Who checks no lists refuses nobody for the lack of one; who holds older ones would refuse the new authority.

    It is about one half of the bundle alone, its X.509 authorities or (`is_jwt`) its JWT authorities: `sequence` is
    that of the last change of this half, since whoever is sent the other one alone does not follow.
    """

    trust_domain: str
    sequence: int
    lists: str
    is_jwt: bool = False

    def is_known_by(self, resource: types_pb2.ResourceReport) -> bool:
        """Whether the proxy holds it."""
        return resource.held_bundle_sequence >= self.sequence and self.agrees_with(resource.held_revocation_version)

    def agrees_with(self, lists: str) -> bool:
        """Whether these are the lists, or none. Tokens are on no list."""
        return self.is_jwt or lists in ("", self.lists)

    def of(self, stream: types_pb2.StreamReport) -> Iterator[types_pb2.ResourceReport]:
        """What the stream has asked for of the own trust domain, of this half of its bundle."""
        return (
            resource
            for resource in stream.resources
            if resource.trust_domain == self.trust_domain and resource.jwt_bundle == self.is_jwt
        )


def without(agent: AgentView, trust: Trust) -> Iterator[Holder]:
    """Whoever of this agent does not know of what is to be trusted."""
    if agent.acknowledged_bundle < trust.sequence or not agent.has_reported:
        yield Holder(name=agent.name, words="the agent has not acknowledged the bundle")
    elif not trust.agrees_with(agent.acknowledged_lists):
        yield Holder(name=agent.name, words="the agent has not taken the revocation lists")
    if agent.is_over:
        yield Holder(name=agent.name, words=_TOO_MANY)
    for stream in agent.streams:
        for resource in trust.of(stream):
            if not trust.is_known_by(resource):
                yield _stream_holder(agent, stream, words=what_it_said(stream, resource))
                break


def coming_back(agent: AgentView, trust: Trust, *, now: datetime) -> Iterator[Holder]:
    """Whoever closed its stream without knowing, while it may be an Envoy that comes back.

    A program that fetches once can be told of nothing, and is waited for no longer than that.
    """
    for closed in agent.closed:
        if not all(trust.is_known_by(resource) for resource in trust.of(closed.report)):
            words = f"{who_is(closed.report)} closed its stream a moment ago, and may come back with an older bundle"
            yield _stream_holder(agent, closed.report, words=words, until=now + PROXIES_ARE_BACK - closed.ago)


def has_acknowledged(stream: types_pb2.StreamReport, trust: Trust) -> bool | None:
    """Whether the stream's proxy knows of it; None for a stream that never asked for a bundle."""
    own = [trust.is_known_by(resource) for resource in trust.of(stream)]
    return all(own) if own else None


def not_renewed(
    agent: AgentView, order_id: str, old_issuers: Collection[bytes], *, latest: datetime
) -> Iterator[Holder]:
    """Whether this agent has SVIDs that the order covers, its own first.

    `latest` is when whatever the order covers has ended: an agent that says nothing is waited for no longer.
    """
    if agent.own_issuer in old_issuers:
        until = min(agent.own_ends or latest, latest)
        yield Holder(name=agent.name, words="the agent's own SVID is not renewed", until=until)
    elif agent.progress is None or agent.progress.order_id != order_id:
        yield Holder(name=agent.name, words="the agent has not said how far it is", until=latest)
    elif agent.progress.left:
        told = agent.progress.left_until if agent.progress.HasField("left_until") else None
        yield Holder(name=agent.name, words=f"{agent.progress.left} SVIDs not renewed", until=_end(told, latest))


def depending(
    agent: AgentView,
    old_issuers: Collection[bytes],
    is_revoked: Callable[[bytes, str], bool],
    *,
    latest: datetime,
) -> Iterator[Holder]:
    """Streams whose proxy holds a certificate of these issuers, or an unknown one; not where peers refuse it anyway.

    A proxy may hold something unknown that its agent has nothing to send for: an agent that was started anew knows only
    the version that the proxy brought. By `latest` whatever these issuers signed has ended.
    """
    if agent.is_over:
        yield Holder(name=agent.name, words=_TOO_MANY, until=latest)
    for stream in agent.streams:
        for resource in stream.resources:
            if not _is_svid(resource) or is_revoked(resource.held_issuer_key_id, resource.held_serial):
                continue
            is_unknown = resource.held_version and not resource.held_issuer_key_id
            if is_unknown or resource.held_issuer_key_id in old_issuers:
                told = resource.held_not_after if resource.HasField("held_not_after") else None
                words = f"holds {resource.held_serial or 'something unknown'}: {what_it_said(stream, resource)}"
                yield _stream_holder(agent, stream, words=words, until=_end(told, latest))
                break
    yield from left_with(agent, old_issuers, is_revoked, latest=latest)


def left_with(
    agent: AgentView,
    old_issuers: Collection[bytes],
    is_revoked: Callable[[bytes, str], bool],
    *,
    latest: datetime,
) -> Iterator[Holder]:
    """Processes that closed their streams and may hold a certificate of these issuers, or an unknown one."""
    for closed in agent.closed:
        ends = {
            serial: _end(told, latest)
            for resource in closed.report.resources
            if _is_svid(resource)
            for issuer, serial, told in _may_hold(resource)
            if (not issuer or issuer in old_issuers) and not is_revoked(issuer, serial)
        }
        if ends:
            last = max(ends, key=lambda serial: ends[serial])
            words = f"{who_is(closed.report)} closed its stream and may hold {last or 'something unknown'}"
            yield _stream_holder(agent, closed.report, words=words, until=ends[last])


def _is_svid(resource: types_pb2.ResourceReport) -> bool:
    """Neither a bundle nor what a gateway has from elsewhere, which no rotation replaces."""
    return not resource.trust_domain and not is_credential_name(resource.name)


def _may_hold(resource: types_pb2.ResourceReport) -> Iterator[tuple[bytes, str, Timestamp | None]]:
    """Of a closed stream also what was sent: whoever fetches once closes it as soon as it has read."""
    if resource.held_version or resource.held_issuer_key_id:
        told = resource.held_not_after if resource.HasField("held_not_after") else None
        yield resource.held_issuer_key_id, resource.held_serial, told
    if resource.state == _STATE.SENT:
        yield resource.issuer_key_id, resource.serial, resource.not_after if resource.HasField("not_after") else None


def away(ends: Mapping[str, datetime], *, now: datetime) -> Iterator[Holder]:
    """Of agents (and administrators) that are not connected those whose last certificate has not ended."""
    for who, end in sorted(ends.items()):
        if end > now:
            yield Holder(name=who, words="away, and certificates issued through it are valid", until=end)


def still_held(holders: Iterable[Holder], skipped: Collection[str], now: datetime) -> list[Holder]:
    """Those who were not skipped, also by their agent's name, and whose own end has not come."""
    return [
        holder
        for holder in holders
        if holder.name not in skipped and holder.agent not in skipped and (holder.until is None or holder.until > now)
    ]


def _stream_holder(
    agent: AgentView, stream: types_pb2.StreamReport, *, words: str, until: datetime | None = None
) -> Holder:
    return Holder(name=f"{agent.name}/{stream.stream_id}", words=words, until=until, agent=agent.name)


def _end(told: Timestamp | None, latest: datetime) -> datetime:
    """What an agent said of an end, but never later than what is known here: agents may say what they like."""
    try:
        return latest if told is None else min(from_timestamp(told), latest)
    except CitadelError:
        return latest
