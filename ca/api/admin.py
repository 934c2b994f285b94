"""`citadel.v1.Admin`: what administrators ask. Served on the local socket only, to root and the server's own user.

The flags `admin` and `downstream` of an entry can be set here because this is the local socket; a remote administration
must refuse them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from itertools import islice
from typing import Any, Final

from ca.agents.joining import Joining
from ca.api.answers import bundle_message
from ca.api.entry_answers import plan_messages
from ca.api.listeners import ActorOf
from ca.authority.manager import AuthorityManager
from ca.entries.directory import EntryDirectory
from ca.entries.ordered import Cursor, cursor_of
from ca.entries.registry import EntryRegistry
from citadel._wire import admin_pb2 as pb
from citadel._wire import admin_pb2_grpc, types_pb2
from citadel.config.types import HostPort
from citadel.entry import Entry
from citadel.errors import InvalidArgument, Reason, ResourceExhausted
from citadel.join_string import JoinString
from citadel.selector import Selector
from citadel.spiffe import SpiffeId
from citadel.tally import Tally
from citadel.wire import entry_from_wire, entry_to_wire, from_duration, to_timestamp

_PAGE: Final = 100
_MOST_PAGE: Final = 1000
_MOST_APPLIED: Final = 20_000  # a transaction of a few seconds: issuing waits for it


class AdminService(admin_pb2_grpc.AdminServicer):
    """Tokens, entries, the bundle, and how the server is."""

    def __init__(
        self,
        *,
        joining: Joining,
        registry: EntryRegistry,
        directory: EntryDirectory,
        authorities: AuthorityManager,
        status: Callable[[], pb.Status],
        bootstrap: HostPort,
        actor_of: ActorOf,
        tally: Tally,
    ) -> None:
        self._joining = joining
        self._registry = registry
        self._directory = directory
        self._authorities = authorities
        self._status = status
        self._bootstrap = bootstrap
        self._actor_of = actor_of
        self._tally = tally

    async def CreateToken(self, request: pb.CreateTokenRequest, context: Any) -> pb.CreateTokenResponse:
        made = await self._joining.create_token(
            agent_name=request.agent_name,
            lifetime=from_duration(request.ttl) if request.HasField("ttl") else None,
            selectors=frozenset(Selector.parse(text) for text in request.node_selectors),
            by=self._actor_of(context),
        )
        bundle = self._authorities.joining_bundle()
        join = JoinString(
            address=self._bootstrap,
            trust_domain=bundle.trust_domain,
            bundle_sha256=bundle.x509_digest(),
            token=made.secret,
        )
        return pb.CreateTokenResponse(
            join_string=str(join),
            agent_id=str(made.token.agent),
            expires_at=to_timestamp(made.token.expires_at),
            agent_exists=made.agent_exists,
        )

    async def CreateEntry(self, request: pb.CreateEntryRequest, context: Any) -> types_pb2.Entry:
        return entry_to_wire(await self._registry.create(entry_from_wire(request.entry), by=self._actor_of(context)))

    async def GetEntry(self, request: pb.GetEntryRequest, context: Any) -> types_pb2.Entry:
        return entry_to_wire(self._directory.get(request.id))

    async def ListEntries(self, request: pb.ListEntriesRequest, context: Any) -> pb.ListEntriesResponse:
        size = min(request.page_size or _PAGE, _MOST_PAGE)
        spiffe_id, parent_id = _id_or_none(request.spiffe_id), _id_or_none(request.parent_id)
        fitting = (
            entry
            for entry in self._directory.listed(after=_cursor_from_token(request.page_token))
            if spiffe_id in (None, entry.spiffe_id) and parent_id in (None, entry.parent_id)
        )
        page = list(islice(fitting, size + 1))
        token = _cursor_to_token(page[size - 1]) if len(page) > size else ""
        return pb.ListEntriesResponse(entries=map(entry_to_wire, page[:size]), next_page_token=token)

    async def UpdateEntry(self, request: pb.UpdateEntryRequest, context: Any) -> types_pb2.Entry:
        return entry_to_wire(await self._registry.update(entry_from_wire(request.entry), by=self._actor_of(context)))

    async def ApplyEntries(
        self, request_iterator: AsyncIterator[pb.ApplyEntriesRequest], context: Any
    ) -> AsyncIterator[pb.ApplyEntriesResponse]:
        wanted: list[Entry] = []
        dry_run, prune = False, set[SpiffeId]()
        async for request in request_iterator:
            if len(wanted) + len(request.entries) > _MOST_APPLIED:
                raise ResourceExhausted(Reason.BATCH_TOO_LARGE, f"more than {_MOST_APPLIED} entries in one apply")
            wanted.extend(map(entry_from_wire, request.entries))
            prune.update(map(SpiffeId.parse, request.prune_parent_ids))
            dry_run = dry_run or request.dry_run
        by = self._actor_of(context)
        plan = await self._registry.apply(wanted, by=by, prune=prune, dry_run=dry_run)
        if plan.problems and not dry_run:  # told all together in the answer, so the border does not see a refusal
            self._tally.count_refused("ApplyEntries", plan.problems[0].error, by=by)
        for answer in plan_messages(plan):
            yield answer

    async def DeleteEntry(self, request: pb.DeleteEntryRequest, context: Any) -> types_pb2.Entry:
        return entry_to_wire(await self._registry.delete(request.id, by=self._actor_of(context)))

    async def GetOwnBundle(self, request: pb.GetOwnBundleRequest, context: Any) -> types_pb2.Bundle:
        own = self._authorities
        return bundle_message(own.bundle(), for_workloads_alone=own.for_workloads_alone())

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.Status:
        return self._status()


def _id_or_none(text: str) -> SpiffeId | None:
    return SpiffeId.parse(text) if text else None


# Pages go by time of creation and id, so entries that come or go in between never shift the others.
def _cursor_to_token(entry: Entry) -> str:
    moment, entry_id = cursor_of(entry)
    return f"{moment.isoformat()}|{entry_id}"


def _cursor_from_token(token: str) -> Cursor | None:
    if not token:
        return None
    time, _, entry_id = token.partition("|")
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() is None:
        raise InvalidArgument(Reason.REQUEST_MALFORMED, "the page token is not one of this server")
    return (moment, entry_id)
