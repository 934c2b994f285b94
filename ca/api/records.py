"""`citadel.v1.Records`: what was issued and what was done, and the chains that show whether it was changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from ca.api.listeners import ActorOf
from ca.ledger.chain import Head, Log, Segment, microseconds
from ca.ledger.notary import Notary
from ca.ledger.pages import AuditQuery, Cursor, LedgerQuery, RecordedAct, RecordedCertificate
from ca.ledger.verify import Records, der_of
from ca.store.pages import SqlRecordPages
from citadel._wire import records_pb2 as pb
from citadel._wire import records_pb2_grpc
from citadel.errors import InvalidArgument, Reason
from citadel.spiffe import SpiffeId
from citadel.wire import from_timestamp, to_timestamp

_PAGE: Final = 100
_MOST_PAGE: Final = 1000
_LOGS: Final = {pb.RECORD_LOG_LEDGER: Log.LEDGER, pb.RECORD_LOG_AUDIT: Log.AUDIT}
_EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


class RecordsService(records_pb2_grpc.RecordsServicer):
    """Lists both logs, reads out their chains, and prunes them."""

    def __init__(self, *, pages: SqlRecordPages, chains: Records, notary: Notary, actor_of: ActorOf) -> None:
        self._pages = pages
        self._chains = chains
        self._notary = notary
        self._actor_of = actor_of

    async def ListCertificates(self, request: pb.ListCertificatesRequest, context: Any) -> pb.ListCertificatesResponse:
        query = LedgerQuery(
            spiffe_id=SpiffeId.parse(request.spiffe_id) if request.spiffe_id else None,
            serial=request.serial,
            requested_by=SpiffeId.parse(request.requested_by) if request.requested_by else None,
            entry_id=request.entry_id,
            since=_moment(request, "since"),
            until=_moment(request, "until"),
        )
        size = _size(request.page_size)
        found = await self._pages.certificates(query, after=_cursor(request.page_token), most=size + 1)
        token = _token(found[size - 1].row.issued_at, found[size - 1].number) if len(found) > size else ""
        return pb.ListCertificatesResponse(certificates=map(_certificate, found[:size]), next_page_token=token)

    async def ListActs(self, request: pb.ListActsRequest, context: Any) -> pb.ListActsResponse:
        query = AuditQuery(
            actor=request.actor,
            what=request.what,
            target=request.target,
            refused_only=request.refused_only,
            since=_moment(request, "since"),
            until=_moment(request, "until"),
        )
        size = _size(request.page_size)
        found = await self._pages.acts(query, after=_cursor(request.page_token), most=size + 1)
        token = _token(found[size - 1].at, found[size - 1].number) if len(found) > size else ""
        return pb.ListActsResponse(acts=map(_act, found[:size]), next_page_token=token)

    async def GetChain(self, request: pb.GetChainRequest, context: Any) -> pb.Chain:
        if request.sign_now:
            await self._notary.checkpoint()
        state, keys = await self._chains.state(_log(request.log)), await self._chains.keys()
        return pb.Chain(
            segments=map(_segment, state.segments),
            signed=state.signed,
            rows=state.census,
            keys=[pb.RecordKey(fingerprint=name, public_key=der_of(key)) for name, key in keys.items()],
        )

    async def ReadChain(self, request: pb.ReadChainRequest, context: Any) -> AsyncIterator[pb.ChainRows]:
        after = Head(request.writer, request.after_position, b"")
        async for rows in self._chains.rows(_log(request.log), after):
            yield pb.ChainRows(
                rows=[
                    pb.ChainRow(number=row.number, position=row.position, hash=row.hash, record=row.record)
                    for row in rows
                ]
            )

    async def PruneRecords(self, request: pb.PruneRecordsRequest, context: Any) -> pb.PruneRecordsResponse:
        log, before = _log(request.log), _moment(request, "before")
        if before is None:
            raise InvalidArgument(Reason.REQUEST_MALFORMED, "the moment before which rows go is not set")
        if request.dry_run:
            return pb.PruneRecordsResponse(rows=await self._notary.prunable(log, before=before))
        # In many short transactions, which others' writes go between; cancelled, it has removed a part.
        return pb.PruneRecordsResponse(rows=await self._notary.prune(log, before=before, by=self._actor_of(context)))


def _log(log: pb.RecordLog.ValueType) -> Log:
    if log not in _LOGS:
        raise InvalidArgument(Reason.REQUEST_MALFORMED, f"there is no log {log}")
    return _LOGS[log]


def _moment(request: Any, name: str) -> datetime | None:
    return from_timestamp(getattr(request, name)) if request.HasField(name) else None


def _size(asked: int) -> int:
    return min(asked, _MOST_PAGE) if asked > 0 else _PAGE


def _token(at: datetime, number: int) -> str:
    return f"{microseconds(at)}.{number}"


def _cursor(token: str) -> Cursor | None:
    if not token:
        return None
    at, _, number = token.partition(".")
    try:
        return Cursor(_EPOCH + timedelta(microseconds=int(at)), int(number))
    except (ValueError, OverflowError):
        raise InvalidArgument(Reason.REQUEST_MALFORMED, "the page token is not one of this server") from None


def _segment(segment: Segment) -> pb.ChainSegment:
    after = segment.after
    return pb.ChainSegment(
        writer=segment.writer,
        begun_at=to_timestamp(segment.begun_at),
        after=pb.ChainHead(writer=after.writer, position=after.position, hash=after.hash) if after else None,
        unchained=segment.unchained,
    )


def _certificate(found: RecordedCertificate) -> pb.Certificate:
    row = found.row
    return pb.Certificate(
        serial=row.serial,
        spiffe_id=str(row.spiffe_id),
        entry_id=row.entry_id,
        requested_by=str(row.requested_by),
        issuer_id=row.issuer_id,
        public_key=row.public_key,
        not_before=to_timestamp(row.not_before),
        not_after=to_timestamp(row.not_after),
        issued_at=to_timestamp(row.issued_at),
        lifetime_limited_by=row.limited_by,
        writer=found.writer,
        position=found.position,
    )


def _act(found: RecordedAct) -> pb.RecordedAct:
    act = found.act
    at: Timestamp = to_timestamp(found.at)
    return pb.RecordedAct(
        at=at,
        actor_kind=act.actor.kind.value,
        actor=act.actor.name,
        what=act.what,
        target=act.target,
        detail=act.detail,
        why=act.why,
        reason=act.reason.value if act.reason is not None else "",
        count=act.count,
        writer=found.writer,
        position=found.position,
    )
