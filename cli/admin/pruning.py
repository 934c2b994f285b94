"""What `ledger prune` and `audit prune` share."""

from __future__ import annotations

from datetime import timedelta

import click

from citadel._wire import records_pb2 as pb
from citadel._wire.records_pb2_grpc import RecordsStub
from citadel.wire import to_timestamp
from cli.admin.invocation import Invocation
from cli.admin.tables import moment
from cli.output import Form, echo, print_json

_PRUNING_SECONDS = 3600.0


def prune_records(
    invocation: Invocation, log: pb.RecordLog.ValueType, *, older_than: timedelta, dry_run: bool, yes: bool
) -> None:
    """Say how many rows would go, ask, and remove them."""
    before = invocation.clock.now() - older_than

    def ask(*, dry: bool) -> int:
        request = pb.PruneRecordsRequest(log=log, before=to_timestamp(before), dry_run=dry)
        reply = invocation.ask_service(
            lambda channel: RecordsStub(channel).PruneRecords(request, timeout=_PRUNING_SECONDS)
        )
        return reply.rows

    rows = ask(dry=True)
    if not dry_run and rows:
        if not yes:
            click.confirm(f"Remove {rows} rows that ended before {moment(before)} for good?", abort=True, err=True)
        rows = ask(dry=False)
    if invocation.form is Form.JSON:
        print_json({"rows": rows, "before": moment(before), "removed": not dry_run})
    else:
        echo(f"{rows} rows that ended before {moment(before)} {'would be' if dry_run else 'were'} removed")
