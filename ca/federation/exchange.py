"""Exchanging roots with another cluster of the own trust domain: what may be taken, and taking it.

It is done on purpose alone, with a reason, since every cluster whose root is taken can speak for every identity.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from ca.audit.model import Act, Actor
from ca.federation.by_hand import reason_of
from ca.federation.exchanged import ExchangedRoots
from citadel.bundle import TrustBundle
from citadel.certification_path import extension_of
from citadel.clock import Clock
from citadel.errors import InvalidArgument, NotFound, Reason
from citadel.spiffe import TrustDomain
from citadel.tasks import to_its_end

_log = structlog.get_logger(__name__)


class Authorities(Protocol):
    """What is asked of the own authorities. `ca.authority.manager` answers."""

    def own_roots(self) -> TrustBundle:
        """The own bundle, with the own roots alone."""
        ...

    async def settle_anew(self) -> None:
        """Have bundle and lists say what neighbours say now."""
        ...


class Exchange:
    """Takes the roots of other clusters, and gives them up: one act at a time, which nobody cuts in half.

    An act that is told as done and is not in force would have a cluster trusted on that was given up.
    """

    def __init__(self, *, roots: ExchangedRoots, authorities: Authorities, clock: Clock) -> None:
        self._roots = roots
        self._authorities = authorities
        self._clock = clock
        self._turn = asyncio.Lock()

    async def take(self, offered: TrustBundle, *, why: str, by: Actor) -> Sequence[x509.Certificate]:
        """Trust the X.509 authorities of this bundle from now on, and of those exchanged before no others.

        Our own among them are passed over: the other cluster may have them by an exchange. Raises `InvalidArgument`.
        """
        return await to_its_end(self._take(offered, why=reason_of(why), by=by))

    async def give_up(self, *, why: str, by: Actor) -> Sequence[x509.Certificate]:
        """Trust our own roots alone. Those that were exchanged. Raises `NotFound` (`bundle_not_found`)."""
        return await to_its_end(self._give_up(why=reason_of(why), by=by))

    async def _take(self, offered: TrustBundle, *, why: str, by: Actor) -> Sequence[x509.Certificate]:
        async with self._turn:
            own = self._authorities.own_roots()
            wanted = to_take(offered, own=own, retired=await self._roots.retired(), now=self._clock.now())
            await self._put(wanted, _act("bundle.exchange", wanted, own.trust_domain, why=why, by=by))
            _log.warning("roots of another cluster are trusted", roots=len(wanted), by=str(by))
            return wanted

    async def _give_up(self, *, why: str, by: Actor) -> Sequence[x509.Certificate]:
        async with self._turn:
            had, domain = self._roots.roots(), self._authorities.own_roots().trust_domain
            if not had:
                raise NotFound(Reason.BUNDLE_NOT_FOUND, "no roots of another cluster are trusted here")
            await self._put((), _act("bundle.give_up", had, domain, why=why, by=by))
            _log.warning("roots of another cluster are trusted no longer", roots=len(had), by=str(by))
            return had

    async def _put(self, roots: Sequence[x509.Certificate], act: Act) -> None:
        await self._roots.replace(roots, act)
        await self._authorities.settle_anew()


def to_take(
    offered: TrustBundle, *, own: TrustBundle, retired: Sequence[x509.Certificate], now: datetime
) -> Sequence[x509.Certificate]:
    """The authorities to trust beside our own (pure). Raises `InvalidArgument` (`bundle_malformed`)."""
    wanted = [each for each in offered.x509_authorities if each not in own.x509_authorities]
    if not wanted:
        raise _malformed("it has no X.509 authority that is not our own already")
    for each in wanted:
        _check(each, own.trust_domain, retired, now)
    subjects = [each.subject for each in (*wanted, *own.x509_authorities)]
    for each in wanted:
        if subjects.count(each.subject) > 1:
            # BoringSSL looks issuers up by name alone: of two roots of one name, proxies would believe one.
            raise _malformed(
                f"two roots have the name {each.subject.rfc4514_string()}: a proxy with both refuses those under one",
                fix="give one of the clusters a root with a name of its own",
            )
    return wanted


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 in lowercase hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def _act(what: str, roots: Sequence[x509.Certificate], domain: TrustDomain, *, why: str, by: Actor) -> Act:
    detail = f"of the own trust domain: {', '.join(map(fingerprint, roots))}"
    return Act(actor=by, what=what, target=domain.name, detail=detail, why=why)


def _check(root: x509.Certificate, own: TrustDomain, retired: Sequence[x509.Certificate], now: datetime) -> None:
    names = extension_of(root, x509.SubjectAlternativeName)
    ids = names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []
    if ids not in ([], [str(own.id)]):
        raise _malformed(f"the root {fingerprint(root)} is of {', '.join(ids)}, not of {own}")
    if root in retired:
        raise _malformed(
            f"the root {fingerprint(root)} was our own and was retired",
            fix="take the other cluster's own roots alone: `citadel-cli bundle show --own --format spiffe` there",
        )
    if root.not_valid_after_utc <= now:
        raise _malformed(f"the root {fingerprint(root)} ended at {root.not_valid_after_utc.isoformat()}")


def _malformed(problem: str, *, fix: str = "") -> InvalidArgument:
    return InvalidArgument(Reason.BUNDLE_MALFORMED, f"the bundle cannot be exchanged: {problem}", fix=fix)
