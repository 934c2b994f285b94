"""`citadel.v1.Admin`: what administrators ask. Served on the local socket only, to root and the server's own user.

The flags `admin` and `downstream` of an entry can be set here because this is the local socket; a remote administration
must refuse them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from ca.agents.joining import Joining
from ca.api.answers import bundle_message
from ca.api.listeners import ActorOf
from ca.api.status import StatusReader
from ca.authority.manager import AuthorityManager
from ca.entries.directory import EntryDirectory
from ca.entries.registry import EntryRegistry
from citadel._wire import admin_pb2 as pb
from citadel._wire import admin_pb2_grpc, types_pb2
from citadel.config.types import HostPort
from citadel.entry import Entry
from citadel.errors import InvalidArgument, Reason
from citadel.join_string import JoinString
from citadel.selector import Selector
from citadel.wire import entry_from_wire, entry_to_wire, from_duration, to_timestamp

_PAGE: Final = 100
_MOST_PAGE: Final = 1000


class AdminService(admin_pb2_grpc.AdminServicer):
    """Tokens, entries, the bundle, and how the server is."""

    def __init__(
        self,
        *,
        joining: Joining,
        registry: EntryRegistry,
        directory: EntryDirectory,
        authorities: AuthorityManager,
        status: StatusReader,
        bootstrap: HostPort,
        actor_of: ActorOf,
    ) -> None:
        self._joining = joining
        self._registry = registry
        self._directory = directory
        self._authorities = authorities
        self._status = status
        self._bootstrap = bootstrap
        self._actor_of = actor_of

    async def CreateToken(self, request: pb.CreateTokenRequest, context: Any) -> pb.CreateTokenResponse:
        made = await self._joining.create_token(
            agent_name=request.agent_name,
            lifetime=from_duration(request.ttl) if request.HasField("ttl") else None,
            selectors=frozenset(Selector.parse(text) for text in request.node_selectors),
        )
        bundle = self._authorities.bundle()
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
        return entry_to_wire(await self._registry.create(entry_from_wire(request.entry)))

    async def GetEntry(self, request: pb.GetEntryRequest, context: Any) -> types_pb2.Entry:
        return entry_to_wire(self._directory.get(request.id))

    async def ListEntries(self, request: pb.ListEntriesRequest, context: Any) -> pb.ListEntriesResponse:
        after = _cursor_from_token(request.page_token)
        size = min(request.page_size or _PAGE, _MOST_PAGE)
        found = sorted(
            (
                entry
                for entry in self._directory.all().values()
                if _is_wanted(entry, request) and _cursor(entry) > after
            ),
            key=_cursor,
        )
        page = found[:size]
        token = _cursor_to_token(page[-1]) if len(found) > size else ""
        return pb.ListEntriesResponse(entries=map(entry_to_wire, page), next_page_token=token)

    async def DeleteEntry(self, request: pb.DeleteEntryRequest, context: Any) -> types_pb2.Entry:
        return entry_to_wire(await self._registry.delete(request.id))

    async def GetOwnBundle(self, request: pb.GetOwnBundleRequest, context: Any) -> types_pb2.Bundle:
        return bundle_message(self._authorities.bundle())

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.Status:
        return self._status.read()


def _is_wanted(entry: Entry, request: pb.ListEntriesRequest) -> bool:
    if request.spiffe_id and str(entry.spiffe_id) != request.spiffe_id:
        return False
    return not request.parent_id or str(entry.parent_id) == request.parent_id


# Pages go by time of creation and id, so entries that come or go in between never shift the others.
def _cursor(entry: Entry) -> tuple[str, str]:
    return (_time(entry.created_at), entry.id)


def _time(moment: datetime | None) -> str:
    return moment.isoformat(timespec="microseconds") if moment else ""


def _cursor_to_token(entry: Entry) -> str:
    return "|".join(_cursor(entry))


def _cursor_from_token(token: str) -> tuple[str, str]:
    time, bar, entry_id = token.partition("|")
    if token and not bar:
        raise InvalidArgument(Reason.REQUEST_MALFORMED, "the page token is not one of this server")
    return (time, entry_id)
