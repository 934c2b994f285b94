"""What `citadel-cli status` shows, gathered from those who know it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version

from google.protobuf.duration_pb2 import Duration

from ca.agents.model import Agent
from ca.agents.roster import AgentRoster
from ca.api.sessions import AgentSession, SessionBook
from ca.authority.jwt_model import JwtAuthority
from ca.authority.manager import AuthorityManager
from ca.authority.model import Authority
from ca.entries.directory import EntryDirectory
from ca.insight.rotating import Rotating
from ca.steady import TOLERANCE
from ca.upstream.condition import UpstreamCondition
from citadel._wire import admin_pb2 as pb
from citadel.serial import serial_hex
from citadel.tally import Tally
from citadel.wire import to_duration, to_timestamp


class StatusReader:
    """Reads; changes nothing."""

    def __init__(
        self,
        *,
        authorities: AuthorityManager,
        roster: AgentRoster,
        directory: EntryDirectory,
        sessions: SessionBook,
        rotator: Rotating,
        tally: Tally,
        upstream: Callable[[], UpstreamCondition],
        started_at: datetime,
    ) -> None:
        self._authorities = authorities
        self._roster = roster
        self._directory = directory
        self._sessions = sessions
        self._rotator = rotator
        self._tally = tally
        self._upstream = upstream
        self._started_at = started_at

    def read(self) -> pb.Status:
        """The state now."""
        bundle = self._authorities.bundle()
        sessions = self._sessions.newest()
        return pb.Status(
            version=version("citadel"),
            trust_domain=bundle.trust_domain.name,
            started_at=to_timestamp(self._started_at),
            revision=self._directory.revision,
            bundle_sequence=bundle.sequence or 0,
            entries=len(self._directory),
            bundle_x509_sequence=self._authorities.sequences().x509,
            authorities=[
                *map(_authority, self._authorities.authorities()),
                *map(_jwt_authority, self._authorities.jwt.authorities()),
            ],
            agents=[_agent(agent, sessions.get(agent.spiffe_id)) for agent in self._roster.all().values()],
            issued=self._tally.issued,
            refused={reason.value: count for reason, count in self._tally.refused.items()},
            rotation=rotation_status(self._rotator),
            clock_jump=clock_jump(self._rotator),
            upstream=self._upstream().status(),
        )


def rotation_status(rotator: Rotating) -> pb.RotationStatus | None:
    """The rotation that runs, in short; None where none does."""
    running = rotator.running
    if running is None:
        return None
    holders = [holder for holder, _ in rotator.view().holders]
    return pb.RotationStatus(
        id=running.id,
        kind=running.kind.value,
        phase=running.phase.value,
        started_at=to_timestamp(running.started_at),
        phase_since=to_timestamp(running.phase_since),
        holders=len(holders),
        paused=running.paused,
        emergency=running.is_emergency,
        alarm=running.alarm,
        failing=next((holder.words for holder in holders if holder.is_error), ""),
    )


def clock_jump(rotator: Rotating) -> Duration | None:
    """By how much the wall clock has jumped since the start; None for less than clocks that are kept in step drift."""
    jump = rotator.time.jump
    return to_duration(jump) if abs(jump) > TOLERANCE else None


def _authority(authority: Authority) -> pb.AuthorityStatus:
    return pb.AuthorityStatus(
        id=authority.id,
        kind=authority.kind.value,
        state=authority.state.value,
        serial=serial_hex(authority.certificate.serial_number),
        not_before=to_timestamp(authority.not_before),
        not_after=to_timestamp(authority.not_after),
    )


def _jwt_authority(authority: JwtAuthority) -> pb.AuthorityStatus:
    until = authority.signed_until
    return pb.AuthorityStatus(
        id=authority.id,
        kind="jwt",
        state=authority.state.value,
        not_before=to_timestamp(authority.not_before),
        not_after=to_timestamp(authority.not_after),
        kid=authority.kid,
        signed_until=to_timestamp(until) if until is not None else None,
    )


def _agent(agent: Agent, session: AgentSession | None) -> pb.AgentStatus:
    return pb.AgentStatus(
        spiffe_id=str(agent.spiffe_id),
        connected=session is not None,
        banned=agent.banned,
        version=session.version if session else "",
        since=to_timestamp(session.connected_at if session else agent.joined_at),
        acknowledged_revision=session.acknowledged_revision if session else 0,
        streams=session.streams.values() if session else (),
    )
