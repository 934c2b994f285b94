"""What the server tells over Sync, as values, and what becomes of the holdings by it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog
from cryptography.hazmat.primitives.hashes import SHA256

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import types_pb2
from citadel.bundle import TrustBundle
from citadel.entry import Entry
from citadel.errors import CitadelError
from citadel.revocation import RevocationSet
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.wire import entry_from_wire
from sds.holdings import HeldSvid, Holdings
from sds.keep.orders import RenewOrder

_Message = TypeVar("_Message", types_pb2.Entry, types_pb2.Bundle, pb.RenewOrder)
_Value = TypeVar("_Value")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """All parts of one revision. With `is_snapshot` its entries and bundles replace all that was known.

    `named_bundles` are the domains of all bundles that were sent, also of one that could not be read. `revocations` are
    as they came: reading them takes long, and they are judged by the bundle that this very change may bring. Where
    nothing is said of `revoked_identities`, those that are known stay. `for_workloads_alone` are the SHA-256 of
    authorities of the own bundle under which other clusters stand, and no server of the agent.
    """

    revision: int
    is_snapshot: bool
    entries: tuple[Entry, ...]
    removed_entry_ids: frozenset[str]
    bundles: tuple[TrustBundle, ...]
    named_bundles: frozenset[str]
    removed_bundles: frozenset[str]
    orders: tuple[RenewOrder, ...] = ()
    revocations: types_pb2.RevocationSet | None = None
    revoked_identities: frozenset[SpiffeId] | None = None
    for_workloads_alone: frozenset[bytes] = frozenset()

    def for_the_agent(self, bundle: TrustBundle) -> TrustBundle:
        """Of the own bundle, that by which the agent itself knows its server."""
        if not self.for_workloads_alone:
            return bundle
        known = (each for each in bundle.x509_authorities if each.fingerprint(SHA256()) not in self.for_workloads_alone)
        return replace(bundle, x509_authorities=tuple(known))


class Assembly:
    """Puts the parts of a revision together."""

    def __init__(self) -> None:
        self._parts: list[pb.Update] = []

    def add(self, part: pb.Update) -> Change | None:
        """The whole change when `part` ends it, None while there is more to come."""
        self._parts.append(part)
        if part.more:
            return None
        parts, self._parts = self._parts, []
        sets = [each.revocations for each in parts if each.HasField("revocations")]
        revoked = [each.revoked_identities for each in parts if each.HasField("revoked_identities")]
        return Change(
            revision=part.revision,
            is_snapshot=any(each.snapshot for each in parts),
            entries=tuple(_readable(entry_from_wire, (entry for each in parts for entry in each.entries))),
            removed_entry_ids=frozenset(entry_id for each in parts for entry_id in each.removed_entry_ids),
            bundles=tuple(_readable(_bundle_from_wire, (bundle for each in parts for bundle in each.bundles))),
            named_bundles=frozenset(bundle.trust_domain for each in parts for bundle in each.bundles),
            removed_bundles=frozenset(name for each in parts for name in each.removed_bundles),
            orders=tuple(_readable(RenewOrder.from_wire, (each.renew for each in parts if each.HasField("renew")))),
            revocations=types_pb2.RevocationSet(lists=(each for one in sets for each in one.lists)) if sets else None,
            revoked_identities=frozenset(_identities(name for one in revoked for name in one.spiffe_ids))
            if revoked
            else None,
            for_workloads_alone=frozenset(
                digest for each in parts for bundle in each.bundles for digest in bundle.for_workloads_alone
            ),
        )


def after(change: Change, holdings: Holdings, revocations: RevocationSet | None = None) -> Holdings:
    """The holdings once `change` is taken: entries, bundles, and no SVID of an entry that is gone or renamed.

    An SVID stays while its entry's other terms change, until the new one is in hand (invariant 5); under another SPIFFE
    ID it would be served for an identity that the entry no longer grants. `revocations` are those of the change, if it
    brought any that are good; an SVID that they revoke is of no use to anybody.
    """
    entries = {} if change.is_snapshot else dict(holdings.entries)
    entries.update({entry.id: entry for entry in change.entries})
    for entry_id in change.removed_entry_ids:
        entries.pop(entry_id, None)
    taken = replace(
        holdings,
        entries=entries,
        svids={key: held for key, held in holdings.svids.items() if _is_of(held, entries.get(key))},
        bundles={
            **{domain: bundle for domain, bundle in holdings.bundles.items() if _stays(domain, change)},
            **{bundle.trust_domain: bundle for bundle in change.bundles},
        },
        revoked_identities=(
            holdings.revoked_identities if change.revoked_identities is None else change.revoked_identities
        ),
    )
    return _under(revocations, taken) if revocations is not None else taken


def _under(revocations: RevocationSet, holdings: Holdings) -> Holdings:
    # The very same object while it says the same, so that nothing that was made of it is made again.
    if revocations.version == holdings.revocations.version:
        return holdings
    good = {key: held for key, held in holdings.svids.items() if not revocations.holds(held.svid)}
    return replace(holdings, svids=good, revocations=revocations)


def _stays(domain: TrustDomain, change: Change) -> bool:
    # The server names its own domain in every snapshot, so a snapshot without any bundle says nothing about them.
    if change.is_snapshot and change.named_bundles:
        return domain.name in change.named_bundles
    return domain.name not in change.removed_bundles


def _is_of(held: HeldSvid, entry: Entry | None) -> bool:
    return entry is not None and held.svid.spiffe_id == entry.spiffe_id


def _bundle_from_wire(message: types_pb2.Bundle) -> TrustBundle:
    return TrustBundle.from_json(TrustDomain.parse(message.trust_domain), message.json)


def _identities(names: Iterable[str]) -> Iterator[SpiffeId]:
    for name in names:
        try:
            yield SpiffeId.parse(name)
        except CitadelError as error:
            _log.error("cannot read an identity that the server revoked", item=name, error=str(error))


def _readable(parse: Callable[[_Message], _Value], messages: Iterable[_Message]) -> Iterator[_Value]:
    """The values of the messages that can be read; one that cannot takes nothing from the others (invariant 8)."""
    for message in messages:
        try:
            yield parse(message)
        except CitadelError as error:
            name = message.trust_domain if isinstance(message, types_pb2.Bundle) else message.id
            _log.error("cannot read what the server sent", item=name, reason=error.reason, error=str(error))
