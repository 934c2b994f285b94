"""Orders of the server to renew ahead of time, as rules: what they cover, and how far the agent has come with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from citadel._wire import agent_api_pb2 as pb
from citadel.spiffe import SpiffeId
from citadel.svid import X509Svid
from citadel.wire import from_duration, from_timestamp, to_timestamp
from sds.holdings import HeldSvid

_MOST_ORDERS: Final = 8  # the server has one at a time
_AGAIN: Final = timedelta(seconds=1)
_MOST_DOUBLINGS: Final = 16


@dataclass(frozen=True, slots=True)
class _Covered:
    """The SVID of one entry that an order covers, or did, and how many of this entry it covered before."""

    serial: str
    before: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewOrder:
    """What to renew within `window`: SVIDs that fit everything that is set.

    `issuer_key_ids` are the authorities to leave; `not_before_until` bounds where the validity begins.
    """

    id: str
    own: bool
    svids: bool
    issuer_key_ids: frozenset[bytes]
    not_before_until: datetime | None
    spiffe_id: SpiffeId | None
    window: timedelta

    @classmethod
    def from_wire(cls, message: pb.RenewOrder) -> RenewOrder:
        """Parse an order. Raises `InvalidArgument`."""
        return cls(
            id=message.id,
            own=message.own,
            svids=message.svids,
            issuer_key_ids=frozenset(message.issuer_key_ids),
            not_before_until=(
                from_timestamp(message.not_before_until) if message.HasField("not_before_until") else None
            ),
            spiffe_id=SpiffeId.parse(message.spiffe_id) if message.spiffe_id else None,
            window=from_duration(message.window),
        )

    def covers(self, svid: X509Svid, issuer_key_id: bytes) -> bool:
        """Whether this SVID is to be renewed."""
        if self.issuer_key_ids and issuer_key_id not in self.issuer_key_ids:
            return False
        if self.not_before_until is not None and svid.not_before > self.not_before_until:
            return False
        return self.spiffe_id in (None, svid.spiffe_id)


class OrderBook:
    """The orders that came, and for each of which entries it covered an SVID at some time."""

    def __init__(self) -> None:
        self._orders: dict[str, RenewOrder] = {}
        self._covered: dict[str, dict[str, _Covered]] = {}

    def add(self, order: RenewOrder) -> None:
        """Take an order. The same one may come again, after the stream to the server broke."""
        if order.id not in self._orders and len(self._orders) >= _MOST_ORDERS:
            oldest = next(iter(self._orders))
            del self._orders[oldest], self._covered[oldest]
        self._orders[order.id] = order
        self._covered.setdefault(order.id, {})

    def newly_covered(self, svids: Iterable[HeldSvid]) -> Mapping[str, timedelta]:
        """The entries whose SVID an order covers and did not before, with the window to renew it in.

        Asked again after every renewal, since an SVID may have been signed just before the order's authority was left.
        One that is covered again and again, as where the server's clock was set back, is renewed ever more seldom.
        """
        found: dict[str, timedelta] = {}
        for held in svids:
            for order in self._covering(held):
                known = self._covered[order.id].get(held.entry_id)
                if known is not None and known.serial == held.svid.serial:
                    continue
                before = known.before + 1 if known is not None else 0
                self._covered[order.id][held.entry_id] = _Covered(held.svid.serial, before)
                window = max(order.window, _AGAIN * (1 << min(before, _MOST_DOUBLINGS))) if before else order.window
                found[held.entry_id] = min(window, found.get(held.entry_id, window))
        return found

    def progress(self, svids: Iterable[HeldSvid]) -> pb.RenewProgress:
        """What is left of each order, for the server."""
        held = tuple(svids)
        return pb.RenewProgress(orders=[self._progress(order, held) for order in self._orders.values() if order.svids])

    def _progress(self, order: RenewOrder, svids: tuple[HeldSvid, ...]) -> pb.OrderProgress:
        left = [held.svid for held in svids if order.covers(held.svid, held.issuer_key_id)]
        told = pb.OrderProgress(order_id=order.id, covered=len(self._covered[order.id]), left=len(left))
        if left:
            told.left_until.CopyFrom(to_timestamp(max(svid.not_after for svid in left)))
        return told

    def _covering(self, held: HeldSvid) -> Iterable[RenewOrder]:
        return (o for o in self._orders.values() if o.svids and o.covers(held.svid, held.issuer_key_id))
