"""Changing entries: planned by the rules, made durable, shown to the directory, in that order, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, Protocol
from uuid import uuid4

import structlog

from ca.audit.model import Act, Actor
from ca.entries.changes import ChangeKind, EntryChange, Plan
from ca.entries.directory import EntryDirectory
from ca.entries.planning import Planner
from ca.entries.wishes import Verb, Wish, that_go_together
from citadel.clock import Clock
from citadel.entry import Entry
from citadel.errors import CitadelError, InvalidArgument, NotFound, Reason, ResourceExhausted
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.tasks import to_its_end

_log = structlog.get_logger(__name__)

_MOST_DISSOCIATED: Final = 20_000  # a transaction of a few seconds: issuing waits for it
_VERBS = {
    ChangeKind.CREATED: "entry.create",
    ChangeKind.UPDATED: "entry.update",
    ChangeKind.DELETED: "entry.delete",
}


class EntryStore(Protocol):
    """Where entries are durable."""

    async def load(self, keep: Callable[[Entry], Entry]) -> tuple[Sequence[Entry], int]:
        """Every entry in the order of creation, as `keep` makes it of what was read, and the revision they stand at."""
        ...

    async def same_as(self, wanted: Sequence[Entry]) -> Sequence[str | None]:
        """For each, the id of the entry with its SPIFFE ID, parent and selectors, of which there is one at most."""
        ...

    async def commit(
        self,
        changes: Sequence[EntryChange],
        *,
        acts: Sequence[Act],
        at: datetime,
        forgotten: TrustDomain | None = None,
    ) -> int:
        """Make all changes and note the acts in one transaction; returns the new revision.

        The bundle of the foreign trust domain that is `forgotten` goes in the same transaction.
        """
        ...


class EntryRegistry:
    """The only writer of entries. Every change is in the audit log, in the transaction that makes it."""

    def __init__(
        self, *, trust_domain: TrustDomain, store: EntryStore, directory: EntryDirectory, clock: Clock
    ) -> None:
        self._trust_domain = trust_domain
        self._store = store
        self._directory = directory
        self._clock = clock
        self._waiting: list[Wish] = []
        self._one_at_a_time = asyncio.Lock()

    async def start(self) -> None:
        """Fill the directory from the store."""
        entries, revision = await self._store.load(self._directory.shared)
        self._directory.load(entries, revision=revision)

    async def create(self, wanted: Entry, *, by: Actor) -> Entry:
        """Add an entry; its id, revision and time of creation are set here.

        Raises `InvalidArgument` with the rule that it breaks, or `AlreadyExists` (`entry_duplicate`), naming the id.
        """
        return await self._granted(Verb.CREATE, replace(wanted, id="", revision=0), by)

    async def update(self, wanted: Entry, *, by: Actor) -> Entry:
        """Give the entry with this id these terms.

        `wanted.revision` is the revision that whoever asks has seen. Raises as `create`, or `NotFound`
        (`entry_not_found`), or `FailedPrecondition` (`entry_changed`) where the entry is at another revision.
        """
        if not wanted.id:
            raise NotFound(Reason.ENTRY_NOT_FOUND, "an update names its entry by id")
        if not wanted.revision:
            raise InvalidArgument(Reason.ENTRY_CHANGED, "an update says which revision of its entry it means")
        return await self._granted(Verb.UPDATE, wanted, by)

    async def delete(self, entry_id: str, *, by: Actor) -> Entry:
        """Remove an entry; nothing new is issued or served for it from here on."""
        return await self._granted(Verb.DELETE, self._directory.get(entry_id), by)

    async def apply(
        self, wanted: Sequence[Entry], *, by: Actor, prune: Collection[SpiffeId] = (), dry_run: bool = False
    ) -> Plan:
        """Bring about that the wanted entries are as they say: all, or none where the plan has problems.

        Entries under the parents `prune` that are not among the wanted are deleted. With `dry_run` nothing is done.
        """
        return await to_its_end(self._apply(wanted, by, prune, dry_run=dry_run))

    async def manage(
        self, wanted: Sequence[Entry], *, gone: Collection[str] = (), by: Actor
    ) -> Mapping[str, CitadelError]:
        """Bring about what the server keeps true by itself, in one transaction: entries that have an origin.

        Those with an id are changed to what is `wanted`, the others made, those with an id in `gone` deleted. Where
        people registered the very same, theirs is the one. What cannot be is left out; returns why, by origin.
        """
        return await to_its_end(self._manage(wanted, gone, by))

    async def dissociate(self, trust_domain: TrustDomain, act: Act) -> int:
        """Let no entry federate with this trust domain, forget its bundle, and note `act`: all of it, or nothing.

        How many entries did. Raises `ResourceExhausted` (`batch_too_large`) for more than one transaction can take.
        """
        return await to_its_end(self._dissociate(trust_domain, act))

    async def _dissociate(self, trust_domain: TrustDomain, act: Act) -> int:
        async with self._one_at_a_time:
            found = list(self._directory.federating(trust_domain).values())
            if len(found) > _MOST_DISSOCIATED:
                raise ResourceExhausted(
                    Reason.BATCH_TOO_LARGE,
                    f"{len(found)} entries federate with {trust_domain}, and {_MOST_DISSOCIATED} are changed at once",
                    fix="change some of them first, with `citadel-cli entry apply`",
                )
            changes = [
                EntryChange(
                    before=each,
                    after=replace(
                        each, federates_with=each.federates_with - {trust_domain}, revision=each.revision + 1
                    ),
                )
                for each in found
            ]
            acts = [*(_act(change, act.actor, why=act.why) for change in changes), act]
            await self._commit_all(changes, acts, forgotten=trust_domain)
        return len(found)

    async def _granted(self, verb: Verb, wanted: Entry, by: Actor) -> Entry:
        wish = Wish(verb=verb, wanted=wanted, by=by, done=asyncio.get_running_loop().create_future())
        self._waiting.append(wish)
        return await to_its_end(self._grant(wish))

    async def _grant(self, wish: Wish) -> Entry:
        async with self._one_at_a_time:
            while not wish.done.done():  # whoever had the turn before may have taken it along
                together, self._waiting = that_go_together(self._waiting)
                await self._grant_all(together)
        return wish.done.result()

    async def _grant_all(self, wishes: Sequence[Wish]) -> None:
        granted: list[tuple[Wish, EntryChange]] = []
        try:
            same = await self._store.same_as([wish.wanted for wish in wishes])
            planner = self._planner()
            for wish, same_id in zip(wishes, same, strict=True):
                try:
                    granted.append((wish, wish.change(planner, self._directory, same_id)))
                except CitadelError as refusal:
                    wish.settle(refusal)
            await self._commit([change for _, change in granted], [wish.by for wish, _ in granted])
        except CitadelError as error:
            for wish in wishes:
                wish.settle(error)
        for wish, change in granted:
            wish.settle(change.entry)

    async def _apply(self, wanted: Sequence[Entry], by: Actor, prune: Collection[SpiffeId], *, dry_run: bool) -> Plan:
        async with self._one_at_a_time:
            plan = await self._plan(wanted, prune)
            if not (plan.problems or dry_run):
                await self._commit(plan.changes, [by] * len(plan.changes))
        return plan

    async def _manage(self, wanted: Sequence[Entry], gone: Collection[str], by: Actor) -> Mapping[str, CitadelError]:
        refused: dict[str, CitadelError] = {}
        async with self._one_at_a_time:
            existing, same = self._directory.all(), await self._store.same_as(wanted)
            pairs = list(zip(wanted, same, strict=True))
            by_hand = [entry.id for entry, twin in pairs if twin and not existing[twin].origin]
            pairs = [(entry, twin) for entry, twin in pairs if not twin or existing[twin].origin]
            found = (existing.get(entry_id) for entry_id in {*gone, *by_hand})
            pruned = [entry for entry in found if entry is not None and entry.origin]
            plan = Plan(changes=(), problems=())
            while pairs or pruned:  # what is left out may have been to make way for something else
                plan = await asyncio.to_thread(
                    self._planner(manages=True).plan,
                    [entry for entry, _ in pairs],
                    [twin for _, twin in pairs],
                    pruned=pruned,
                )
                if not plan.problems:
                    break
                problems = {problem.index: problem.error for problem in plan.problems}
                refused |= {pairs[index][0].origin: error for index, error in problems.items()}
                pairs = [pair for index, pair in enumerate(pairs) if index not in problems]
            await self._commit(plan.changes, [by] * len(plan.changes))
        return refused

    async def _plan(self, wanted: Sequence[Entry], prune: Collection[SpiffeId]) -> Plan:
        same = await self._store.same_as(wanted)
        found = (entry for parent in prune for entry in self._directory.under(parent).values())
        pruned = [entry for entry in found if not entry.origin]  # others are the server's to delete
        # Nobody else writes the directory meanwhile: that takes the lock.
        return await asyncio.to_thread(self._planner().plan, wanted, same, pruned=pruned)

    def _planner(self, *, manages: bool = False) -> Planner:
        return Planner(
            trust_domain=self._trust_domain,
            existing=self._directory.all(),
            now=self._clock.now(),
            new_id=lambda: str(uuid4()),
            manages=manages,
        )

    async def _commit(self, changes: Sequence[EntryChange], by: Sequence[Actor]) -> None:
        """Make changes durable, each on behalf of its actor, and then seen."""
        real = [(change, actor) for change, actor in zip(changes, by, strict=True) if change.is_real]
        if not real:
            return
        await self._commit_all([change for change, _ in real], [_act(change, actor) for change, actor in real])

    async def _commit_all(
        self, changes: Sequence[EntryChange], acts: Sequence[Act], *, forgotten: TrustDomain | None = None
    ) -> None:
        revision = await self._store.commit(changes, acts=acts, at=self._clock.now(), forgotten=forgotten)
        for change in changes:
            if change.after is not None:
                self._directory.put(change.after, revision=revision)
            else:
                self._directory.remove(change.entry.id, revision=revision)
        if changes:
            _say(changes, revision)


def _say(changes: Sequence[EntryChange], revision: int) -> None:
    if len(changes) > 1:  # each is in the audit log
        _log.info("entries changed", number=len(changes), revision=revision)
        return
    entry = changes[0].entry
    _log.info(f"entry {changes[0].kind}", entry=entry.id, spiffe_id=str(entry.spiffe_id), parent=str(entry.parent_id))


def _act(change: EntryChange, by: Actor, *, why: str = "") -> Act:
    terms = f"; {', '.join(change.changed_terms())}" if change.kind is ChangeKind.UPDATED else ""
    detail = f"{change.entry.spiffe_id} under {change.entry.parent_id}{terms}"
    return Act(actor=by, what=_VERBS[change.kind], target=change.entry.id, detail=detail, why=why)
