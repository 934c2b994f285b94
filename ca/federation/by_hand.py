"""Foreign bundles that a person gives and takes. What a federation brings is left to the federation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final, Protocol

from ca.audit.model import Act, Actor
from ca.federation.known import ForeignBundles, KnownBundle, Source
from ca.federation.rules import check_foreign
from citadel.bundle import TrustBundle
from citadel.clock import Clock
from citadel.entry import Entry
from citadel.errors import FailedPrecondition, InvalidArgument, NotFound, Reason
from citadel.spiffe import TrustDomain
from citadel.tasks import to_its_end

MAX_REASON: Final = 500  # characters


class DeleteMode(StrEnum):
    """What becomes of the entries that federate with a domain whose bundle is deleted."""

    RESTRICT = "restrict"  # it is not deleted while there are any
    DISSOCIATE = "dissociate"  # they federate with it no longer


class Entries(Protocol):
    """What is asked of the entries. `ca.entries.directory` answers."""

    def federating(self, trust_domain: TrustDomain) -> Mapping[str, Entry]:
        """Those that federate with this trust domain, by id."""
        ...


class Dissociation(Protocol):
    """What changes entries. `ca.entries.registry` does."""

    async def dissociate(self, trust_domain: TrustDomain, act: Act) -> int:
        """Let no entry federate with this trust domain, and forget its bundle, in one transaction with `act`."""
        ...


class BundlesByHand:
    """Sets and deletes. Each act is in the audit log, with the reason for it, exactly when it was done."""

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        foreign: ForeignBundles,
        is_federated: Callable[[TrustDomain], bool],
        entries: Entries,
        dissociation: Dissociation,
        clock: Clock,
    ) -> None:
        """`is_federated` says whether a federation brings a bundle, also where it has not brought one yet."""
        self._own = trust_domain
        self._foreign = foreign
        self._is_federated = is_federated
        self._entries = entries
        self._dissociation = dissociation
        self._clock = clock

    async def set(self, bundle: TrustBundle, *, why: str, by: Actor) -> KnownBundle:
        """Put a bundle in force that was brought by hand; what is older than the one in force is refused.

        Raises:
            InvalidArgument: no reason, or `federation_own_domain`.
            FailedPrecondition: `bundle_older`, or `bundle_in_use` where a federation brings it.
        """
        check_foreign(self._own, bundle.trust_domain)
        return await to_its_end(self._set(bundle, reason_of(why), by))

    async def delete(self, trust_domain: TrustDomain, mode: DeleteMode, *, why: str, by: Actor) -> KnownBundle:
        """Take the bundle from everybody. What it was.

        Raises:
            InvalidArgument: no reason.
            NotFound: `bundle_not_found`.
            FailedPrecondition: `bundle_in_use`: a federation brings it, or entries federate with it.
            ResourceExhausted: `batch_too_large`: more entries do than can be changed at once.
        """
        return await to_its_end(self._delete(trust_domain, mode, reason_of(why), by))

    def get(self, trust_domain: TrustDomain) -> KnownBundle:
        """The bundle in force. Raises `NotFound` (`bundle_not_found`)."""
        known = self._foreign.get(trust_domain)
        if known is None:
            raise NotFound(
                Reason.BUNDLE_NOT_FOUND,
                f"no bundle of {trust_domain} is known",
                fix="`citadel-cli bundle list` shows those that are",
            )
        return known

    async def _set(self, bundle: TrustBundle, why: str, by: Actor) -> KnownBundle:
        domain = bundle.trust_domain
        act = Act(actor=by, what="bundle.set", target=domain.name, detail=described(bundle), why=why)
        async with self._foreign.bringing:
            self._check_by_hand(domain, "a bundle that is set would last until it is fetched again")
            await self._foreign.put(bundle, Source.SET, self._clock.now(), act=act)
            return self.get(domain)

    async def _delete(self, trust_domain: TrustDomain, mode: DeleteMode, why: str, by: Actor) -> KnownBundle:
        async with self._foreign.bringing:
            known = self.get(trust_domain)
            self._check_by_hand(trust_domain, "it would come back")
            await self._forget(trust_domain, mode, why, by)
            return known

    async def _forget(self, trust_domain: TrustDomain, mode: DeleteMode, why: str, by: Actor) -> None:
        now, using = self._clock.now(), self._entries.federating(trust_domain)
        act = Act(
            actor=by,
            what="bundle.delete",
            target=trust_domain.name,
            detail=f"{mode.value}, {len(using)} entries",
            why=why,
        )
        if mode is DeleteMode.DISSOCIATE:
            await self._foreign.remove_by(lambda: self._dissociation.dissociate(trust_domain, act), trust_domain)
            return
        if using:
            example = next(iter(using.values()))
            raise FailedPrecondition(
                Reason.BUNDLE_IN_USE,
                f"{len(using)} entries federate with {trust_domain}, as {example.id} of {example.spiffe_id}",
                fix="change them first, or delete with `--mode dissociate`, which changes them all",
            )
        await self._foreign.remove(trust_domain, at=now, act=act)

    def _check_by_hand(self, trust_domain: TrustDomain, why: str) -> None:
        if self._is_federated(trust_domain):
            raise FailedPrecondition(
                Reason.BUNDLE_IN_USE,
                f"a federation brings the bundle of {trust_domain}: {why}",
                fix=f"end it first: `citadel-cli federation delete {trust_domain}`",
            )


def reason_of(why: str) -> str:
    """The reason that a person gave. Raises `InvalidArgument` (`request_malformed`) where it is none."""
    why = why.strip()
    if not why or len(why) > MAX_REASON or not why.isprintable():
        raise InvalidArgument(
            Reason.REQUEST_MALFORMED, f"this needs a reason of at most {MAX_REASON} printable characters"
        )
    return why


def described(bundle: TrustBundle) -> str:
    """A bundle as records name it."""
    sequence = f", sequence {bundle.sequence}" if bundle.sequence is not None else ""
    numbers = f"{len(bundle.x509_authorities)} X.509 and {len(bundle.jwt_authorities)} JWT authorities"
    return f"{numbers}{sequence}, sha256 {bundle.x509_digest()}"
