"""What was signed for children and what they said last: durable, and in memory for everybody who asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from cryptography import x509

from ca.audit.model import Act
from ca.authority.certificates import subject_key_id
from ca.clusters.gaps import Gaps
from ca.clusters.model import ChildAuthority, Said
from ca.clusters.ports import ChildStore, KeptReport
from ca.clusters.reports import Reading, kept_report, read_report
from citadel._wire import clusters_pb2 as pb
from citadel.clock import Clock
from citadel.jwk import JwtKey
from citadel.revocation import RevocationList
from citadel.spiffe import SpiffeId, TrustDomain

_MOST_BYTES: Final = 32 * 1024 * 1024  # of lists of all children: they go to each child in one message
_MOST_WITHDRAWN: Final = 1000
UNHEARD: Final = "has not said what it signs with since this server was restored, which may not know of it"


class ChildRecords:
    """Fulfils `ca.authority.ports.Neighbours` for children. `start` before use.

    A child that is connected and has not named an authority yet does not sign with it: it is told first that everybody
    has its list. Of one that is away nobody knows, so that the lists are not whole then.
    """

    def __init__(
        self,
        *,
        trust_domain: TrustDomain,
        store: ChildStore,
        own_keys: Callable[[], Collection[str]],
        roots: Callable[[], Collection[bytes]],
        is_connected: Callable[[SpiffeId], bool],
        longest: timedelta,
        clock: Clock,
    ) -> None:
        """`own_keys` are the ids of JWT keys that no child may bring, `roots` the key ids of what is trusted.

        No authority of a child lives longer than `longest`.
        """
        self._trust_domain = trust_domain
        self._store = store
        self._own_keys = own_keys
        self._roots = roots
        self._is_connected = is_connected
        self._longest = longest
        self._clock = clock
        self._signed: dict[SpiffeId, tuple[ChildAuthority, ...]] = {}
        self._said: dict[SpiffeId, Said] = {}
        self.disowned = frozenset[SpiffeId]()  # whose entries are gone: nobody waits for their lists
        self.entitled: frozenset[SpiffeId] | None = None  # who has an entry; None before anybody looked
        self.gaps = Gaps(longest=longest)

    async def start(self, *, entitled: frozenset[SpiffeId] | None = None) -> None:
        """Take up what is kept. Where it is not known yet who has an entry, a restored server has not all lists."""
        self.entitled = entitled
        now = self._clock.now()
        self.gaps = Gaps(await self._store.gaps(), longest=self._longest)
        for authority in await self._store.authorities(now):
            self._add(authority)
        for kept in await self._store.reports():
            said = (await self._reading(kept.child, kept.report, kept.at)).said
            self._said[kept.child] = replace(said, withdrawn=tuple(kept.report.withdrawn_jwt_keys))

    def signed(self, child: SpiffeId) -> Sequence[ChildAuthority]:
        """What was signed for this child and is believed still: it has not ended, nor is its root gone."""
        now, roots = self._clock.now(), self._roots()
        return [each for each in self._signed.get(child, ()) if each.not_after > now and each.root_key_id in roots]

    def children(self) -> list[SpiffeId]:
        """Whoever has an authority that is believed."""
        return [child for child in self._signed if self.signed(child)]

    def in_use(self, child: SpiffeId) -> list[ChildAuthority]:
        """Those of its authorities that the child may sign with: that it named last, or was given since."""
        said = self._said.get(child)
        return [
            each
            for each in self.signed(child)
            if said is None or each.certificate in said.issuers or each.signed_at > said.at
        ]

    def has_below(self, root: x509.Certificate) -> bool:
        """Whether a child may sign with an authority under this root."""
        key_id = subject_key_id(root)
        return any(each.root_key_id == key_id for child in self._signed for each in self.in_use(child))

    def unheard(self) -> Mapping[SpiffeId, datetime]:
        """Who may have authorities that a restore made this server forget, and until when: it has not spoken since."""
        until = self.gaps.until(self._clock.now())
        if until is None:
            return {}
        news = {child for child, said in self._said.items() if self.gaps.is_news(said.at)}
        return dict.fromkeys(sorted((self.entitled or frozenset()) - news), until)

    def said(self, child: SpiffeId) -> Said | None:
        """What is believed of what it said."""
        return self._said.get(child)

    def who_said(self) -> list[SpiffeId]:
        """Whoever said anything that is kept."""
        return list(self._said)

    def has_key(self, key_id: bytes) -> bool:
        """Whether an authority of any child that has not ended has the key of this id."""
        now = self._clock.now()
        return any(
            each.key_id == key_id and each.not_after > now for signed in self._signed.values() for each in signed
        )

    async def record(self, authority: ChildAuthority, act: Act) -> None:
        """Have it on record, durably."""
        await self._store.record(authority, act)
        self._add(authority)

    async def read(self, child: SpiffeId, report: pb.ClusterReport) -> Reading:
        """What is to be believed of what a child says now. Raises as `read_report`."""
        return await self._reading(child, report, self._clock.now())

    async def keep(self, child: SpiffeId, said: Said) -> None:
        """Believe it from now on, durably."""
        taken = self._taken_from(child)  # another one may have been faster
        said = replace(said, jwt_keys={kid: key for kid, key in said.jwt_keys.items() if kid not in taken})
        said = replace(said, withdrawn=self._withdrawn_by(child, said))
        report = kept_report(said, self._trust_domain)
        await self._store.keep(KeptReport(child=child, report=report, at=said.at))
        self._said[child] = said

    async def drop_keys(self, child: SpiffeId) -> None:
        """Believe no token of its cluster from now on. Its certificates end by themselves."""
        said = self._said.get(child)
        if said is not None and said.jwt_keys:
            await self.keep(child, replace(said, jwt_keys={}))

    async def forget(self, child: SpiffeId) -> None:
        """Forget what it said, once nothing depends on it."""
        await self._store.forget(child)
        self._said.pop(child, None)

    def roots(self) -> Sequence[x509.Certificate]:
        """None: what children bring hangs on our own."""
        return ()

    def jwt_keys(self) -> Mapping[str, JwtKey]:
        """The keys for tokens of all children."""
        own = self._own_keys()
        return {kid: key for said in self._said.values() for kid, key in said.jwt_keys.items() if kid not in own}

    def withdrawn_jwt_keys(self) -> frozenset[str]:
        """The ids of keys that children had and have no more: whoever brings one back heard of it too long ago."""
        return frozenset(kid for said in self._said.values() for kid in said.withdrawn) - self.jwt_keys().keys()

    def lists(self) -> Sequence[RevocationList] | None:
        """The lists of what children sign with; None where one of them is not known."""
        if next(self.missing(), None) is not None:
            return None
        return self._lists()

    def missing(self) -> Iterator[str]:
        """Why not every list is known, in words."""
        if self.entitled is None and self.gaps.until(self._clock.now()) is not None:
            yield "this server was restored, and has not looked yet which child clusters there are"
        for child in self.unheard():
            yield f"{child} {UNHEARD}"
        for child in set(self.children()) - self.disowned:
            said = self._said.get(child)
            for authority in self.in_use(child):
                if said is not None and authority.certificate in said.without_list:
                    yield f"{child} has sent no list of its issuing authority {authority.serial}"
                elif (said is None or authority.certificate not in said.issuers) and not self._is_connected(child):
                    yield f"{child} is away and has not said what its issuing authority {authority.serial} revoked"
        size = sum(len(each.der) for each in self._lists())
        if size > _MOST_BYTES:
            yield f"the lists of all child clusters have {size} bytes, more than the {_MOST_BYTES} that can be pushed"

    def _lists(self) -> list[RevocationList]:
        believed = {each.certificate for child in self._said for each in self.signed(child)}
        return [each for said in self._said.values() for each in said.lists if each.issuer in believed]

    async def _reading(self, child: SpiffeId, report: pb.ClusterReport, at: datetime) -> Reading:
        before = self._said.get(child)
        read = partial(
            read_report,
            report,
            trust_domain=self._trust_domain,
            signed=[each.certificate for each in self._signed.get(child, ())],
            taken=self._taken_from(child),
            known=before.lists if before is not None else (),
            at=at,
        )
        return await asyncio.to_thread(read)  # signatures of long lists

    def _withdrawn_by(self, child: SpiffeId, said: Said) -> tuple[str, ...]:
        before = self._said.get(child, Said(at=said.at))
        kids = dict.fromkeys((*before.withdrawn, *(kid for kid in before.jwt_keys if kid not in said.jwt_keys)))
        return tuple(kid for kid in kids if kid not in said.jwt_keys)[-_MOST_WITHDRAWN:]

    def _taken_from(self, child: SpiffeId) -> frozenset[str]:
        others = (said.jwt_keys for other, said in self._said.items() if other != child)
        return frozenset((*self._own_keys(), *(kid for keys in others for kid in keys)))

    def _add(self, authority: ChildAuthority) -> None:
        now = self._clock.now()
        living = (each for each in self._signed.get(authority.child, ()) if each.not_after > now)
        self._signed[authority.child] = (*living, authority)
