"""Signing an issuing authority for a child: the one function that does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog
from cryptography import x509

from ca.audit.model import Act
from ca.authority.certificates import subject_key_id
from ca.authority.model import Authority, AuthorityKind, AuthorityState
from ca.authority.ports import SignedDownstream
from ca.clusters.asking import Asked, check_request
from ca.clusters.callers import Child
from ca.clusters.model import ChildAuthority
from ca.clusters.records import ChildRecords
from citadel._wire import clusters_pb2 as pb
from citadel.actor import Actor
from citadel.clock import Clock
from citadel.errors import PermissionDenied, Reason, Unavailable
from citadel.limiter import RateLimiter
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.tasks import to_its_end

_log = structlog.get_logger(__name__)

_MOST_LIVING: Final = 500  # of a child and those below it


class Roots(Protocol):
    """What signs; `ca.authority.manager` is the one there is."""

    async def sign_downstream(self, csr: bytes, *, lifetime: timedelta) -> SignedDownstream:
        """Sign an issuing authority of a child by the active root, which may end sooner than asked for."""
        ...

    def authorities(self) -> Sequence[Authority]:
        """The authorities on record, with their states."""
        ...


class Checks(Protocol):
    """Whether a child may go on; `ca.clusters.callers` is the one there is."""

    def check(self, child: Child) -> datetime:
        """Until when, if nothing changes. Raises the refusal."""
        ...


class DownstreamSigner:
    """Signs for children that were authenticated. `longest` is how long this server's own issuing authorities live."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        callers: Checks,
        authorities: Roots,
        records: ChildRecords,
        limiter: RateLimiter,
        longest: timedelta,
        clock: Clock,
    ) -> None:
        self._trust_domain = trust_domain
        self._callers = callers
        self._authorities = authorities
        self._records = records
        self._limiter = limiter
        self._longest = longest
        self._clock = clock
        self._keys_in_hand: set[bytes] = set()

    async def sign(self, child: Child, request: pb.SignIssuerRequest) -> SignedDownstream:
        """Raises as `check_request` and `UpstreamAuthority.sign_downstream`, and `Unavailable`."""
        # 1. The child was authenticated. It must not ask more often than anybody may.
        self._limiter.admit(child.spiffe_id)
        # 2. What it asks for must fit.
        asked = check_request(request, trust_domain=self._trust_domain, longest=self._longest)
        self._check_number(child.spiffe_id)
        # 3. Its key must be new: a list is found by its key, and of two with one no verifier asks both.
        with self._only_one_with(asked):
            # 4. The active root signs, or whoever is above it; the root's end bounds the authority's.
            signed = await self._authorities.sign_downstream(asked.csr, lifetime=asked.lifetime)
            # 5. It is on record before it leaves (invariant 2): a root does not go while it may be depended on.
            authority = ChildAuthority(
                child=child.spiffe_id,
                certificate=signed.chain[0],
                root_key_id=subject_key_id(signed.root),
                signed_at=self._clock.now(),
            )
            await to_its_end(self._records.record(authority, _act(authority)))
        # 6. A ban, or a rotation, may have come during the commit.
        self._callers.check(child)
        self._check_root(signed.root)
        _log.info("authority of a child signed", child=str(child.spiffe_id), serial=authority.serial)
        return signed

    def _check_number(self, child: SpiffeId) -> None:
        """One that asks again and again cannot use what it gets. Each is on record until it ends."""
        living = self._records.signed(child)
        if len(living) >= _MOST_LIVING:
            ends = f"{min(each.not_after for each in living):%Y-%m-%dT%H:%M:%SZ}"
            raise PermissionDenied(
                Reason.DOWNSTREAM_REFUSED,
                f"{child} has been given {len(living)} issuing authorities that have not ended",
                fix="see in the log of the child why it asks for so many, and give it an entry with another SPIFFE ID,"
                f" or wait until the first one ends at {ends}",
            )

    @contextmanager
    def _only_one_with(self, asked: Asked) -> Iterator[None]:
        """Within this, what is asked for is not given to anybody else who asks with the same key."""
        own = (each.subject_key_id for each in self._authorities.authorities())
        if asked.key_id in self._keys_in_hand or asked.key_id in own or self._records.has_key(asked.key_id):
            raise PermissionDenied(
                Reason.DOWNSTREAM_REFUSED,
                "another authority has the key that this certificate request is for",
                fix="ask with a new key",
            )
        self._keys_in_hand.add(asked.key_id)
        try:
            yield
        finally:
            self._keys_in_hand.discard(asked.key_id)

    def _check_root(self, root: x509.Certificate) -> None:
        roots = (each for each in self._authorities.authorities() if each.kind is AuthorityKind.ROOT)
        if not any(each.certificate == root and each.state is not AuthorityState.TAINTED for each in roots):
            raise Unavailable(Reason.ISSUER_UNAVAILABLE, "the root was rotated meanwhile", fix="ask again")


def _act(authority: ChildAuthority) -> Act:
    return Act(
        actor=Actor.identity(authority.child),
        what="downstream.sign",
        target=str(authority.child),
        detail=f"{authority.serial} until {authority.not_after.isoformat(timespec='seconds')}",
    )
