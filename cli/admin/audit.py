"""`citadel-cli audit`: who did what and what was refused, and whether the records are what was written."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from rich.console import Console
from rich.progress import Progress

from ca.ledger.chain import Log
from ca.ledger.checking import Report
from ca.ledger.verify import Records, verify
from citadel._wire import records_pb2 as pb
from citadel._wire.records_pb2_grpc import RecordsStub
from citadel.config.files import write_private
from citadel.errors import FailedPrecondition, Reason
from citadel.wire import from_timestamp, to_timestamp
from cli.admin.chains import LOGS, KeptCheckpoints, ServerRecords, from_lines, store_records, to_lines, trusted
from cli.admin.invocation import CALL_SECONDS, Invocation, admin_command
from cli.admin.parameters import DurationType, MomentType, TextType
from cli.admin.plain import to_plain
from cli.admin.pruning import prune_records
from cli.admin.tables import counted, moment, moment_cell, print_fields, print_heading, print_table
from cli.output import Form, echo, print_json

if TYPE_CHECKING:
    from citadel._wire.records_pb2_grpc import RecordsAsyncStub  # exists for type checkers only

T = TypeVar("T")
_STORE = click.option(
    "--store",
    type=TextType(),
    metavar="URL",
    help="Read this database directly, such as sqlite+aiosqlite:///var/lib/citadel/server/citadel.db.",
)


@click.group("audit")
def audit_group() -> None:
    """The audit log, and the hash chains of the audit log and of the ledger."""


@admin_command("list", group=audit_group, example="citadel-cli audit list --refused --since 2030-01-31T00:00:00Z")
@click.option("--actor", type=TextType(), help="Only what this one did: a SPIFFE ID, uid:0, an address.")
@click.option("--what", type=TextType(), help="Only this act, such as entry.create, or all of a room, such as entry.")
@click.option("--target", type=TextType(), help="Only what was done to this.")
@click.option("--refused", is_flag=True, help="Only refusals.")
@click.option("--since", type=MomentType(), help="From this time on.")
@click.option("--until", type=MomentType(), help="Before this time.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many, the newest."
)
def list_acts(invocation: Invocation, limit: int, **filters: Any) -> None:
    """List acts and refusals, newest first."""
    request = pb.ListActsRequest(
        actor=filters["actor"] or "",
        what=filters["what"] or "",
        target=filters["target"] or "",
        refused_only=filters["refused"],
        since=_timestamp(filters["since"]),
        until=_timestamp(filters["until"]),
    )
    acts = invocation.ask_service(lambda channel: _pages(RecordsStub(channel), request, limit))
    if invocation.form is Form.JSON:
        print_json([to_plain(act) for act in acts])
        return
    now = invocation.clock.now()
    print_table(
        ("AT", "WHO", "WHAT", "TARGET", "REASON", "TIMES", "DETAIL", "WHY"),
        (
            (
                moment_cell(from_timestamp(act.at), now),
                _who(act),
                act.what,
                act.target,
                act.reason,
                act.count,
                act.detail,
                act.why,
            )
            for act in acts
        ),
        none="nothing is recorded that fits",
    )


def _who(act: pb.RecordedAct) -> str:
    named_by_itself = act.actor_kind in ("local", "spiffe")  # uid:0, spiffe://…
    return act.actor if named_by_itself else f"{act.actor_kind} {act.actor}".strip()


async def _pages(records: RecordsAsyncStub, request: pb.ListActsRequest, limit: int) -> list[pb.RecordedAct]:
    found: list[pb.RecordedAct] = []
    while True:
        request.page_size = limit - len(found)
        page = await records.ListActs(request, timeout=CALL_SECONDS)
        found += page.acts
        if len(found) >= limit or not page.next_page_token:
            return found
        request.page_token = page.next_page_token


@admin_command("keys", group=audit_group, example="citadel-cli audit keys")
@_STORE
def keys(invocation: Invocation, store: str | None) -> None:
    """Show the keys that sign checkpoints. Note the fingerprint elsewhere, and verify with it."""

    async def fingerprints(records: Records) -> list[str]:
        return list(await records.keys())

    found = _with_records(invocation, store, fingerprints)
    if invocation.form is Form.JSON:
        print_json([{"sha256": fingerprint} for fingerprint in found])
    else:
        print_table(("SHA-256",), ((fingerprint,) for fingerprint in found), none="nothing was signed yet")


@admin_command("export", group=audit_group, example="citadel-cli audit export --write checkpoints.jsonl")
@click.option(
    "--write",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this file, with mode 0600, instead of standard output.",
)
@_STORE
def export(invocation: Invocation, file: Path | None, store: str | None) -> None:
    """Print every signed checkpoint of both logs, as JSON lines, the newest made now.

    Keep them where nobody who can change the server's store can change them: `audit verify --checkpoints` then finds
    rows that were cut off, which the store alone cannot show.
    """

    async def lines(records: Records) -> list[str]:
        if isinstance(records, ServerRecords):
            await records.chain(Log.LEDGER, sign_now=True)
        known = await records.keys()
        signed = [jws for log in Log for jws in (await records.state(log)).signed]
        return list(to_lines(signed, known))

    text = "".join(f"{line}\n" for line in _with_records(invocation, store, lines))
    if file is None:
        echo(text, nl=False)
    else:
        write_private(file, text.encode())
        click.echo(f"{len(text.splitlines())} checkpoints are in {file}", err=True)


@admin_command("verify", group=audit_group, example="citadel-cli audit verify --checkpoints checkpoints.jsonl")
@click.option(
    "--checkpoints",
    type=click.File("r"),
    help="What `audit export` printed, kept elsewhere. Without --key only the keys in it are trusted.",
)
@click.option("--key", "pinned", type=TextType(), multiple=True, help="Trust this key's signatures alone. Repeatable.")
@_STORE
def verify_records(invocation: Invocation, checkpoints: Any, pinned: tuple[str, ...], store: str | None) -> None:
    """Check every row of the ledger and of the audit log: was one changed, removed, inserted, moved or cut off?"""
    kept = from_lines(checkpoints.read()) if checkpoints is not None else KeptCheckpoints(keys={})
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:

        async def check(records: Records) -> list[Report]:
            trust = trusted(await records.keys(), kept.keys, pinned)
            reports = []
            for log in Log:
                task = progress.add_task(f"checking the {log.value}", total=None)
                reports.append(
                    await verify(
                        records,
                        log,
                        keys=trust,
                        kept_elsewhere=kept.signed,
                        on_progress=lambda _, done, total, task=task: progress.update(  # type: ignore[misc]
                            task, completed=done, total=total
                        ),
                    )
                )
            return reports

        reports = _with_records(invocation, store, check)
    _print_reports(invocation, reports, has_kept=bool(kept.signed))
    broken = sum(len(report.breaks) + report.more_breaks for report in reports)
    if broken:
        raise FailedPrecondition(
            Reason.CHAIN_BROKEN,
            f"the records are not what was written: {counted(broken, 'finding')}",
            fix="keep a copy of the store as it is, and compare it with a backup; where a key is not trusted that the "
            "server got since the last export, find out why it did, and trust it with --key",
        )


def _print_reports(invocation: Invocation, reports: Sequence[Report], *, has_kept: bool) -> None:
    if invocation.form is Form.JSON:
        print_json([_plain(report) for report in reports])
        return
    now = invocation.clock.now()
    for report in reports:
        signed = report.signed_until
        print_heading(f"{report.log.value}: {'intact' if report.is_intact else 'NOT INTACT'}")
        print_fields(
            (
                ("rows checked", report.rows),
                (
                    "rows from before the chain",
                    f"{report.unchained}, which nothing protects" if report.unchained else 0,
                ),
                ("rows pruned by age", report.pruned),
                ("checkpoints compared", report.checkpoints),
                ("signed until", moment_cell(signed.at, now) if signed else "nothing is signed yet"),
                ("signed by", signed.signed_by if signed else ""),
                ("rows after that", report.unsigned_rows),
            )
        )
        if report.breaks:
            print_table(
                ("ROW", "WRITER", "PROBLEM"),
                ((found.number or "", found.writer, found.problem) for found in report.breaks),
                none="",
            )
            if report.more_breaks:
                echo(f"and {report.more_breaks} more")
    echo("")
    echo(_caveat(has_kept=has_kept))


def _caveat(*, has_kept: bool) -> str:
    if has_kept:
        return "What was written after the last checkpoint and cut off leaves no trace: export often."
    return (
        "The checkpoints are the store's own: whoever can change the store can cut off its newest rows with them. "
        "Keep those of `audit export` elsewhere, and verify with --checkpoints."
    )


def _plain(report: Report) -> dict[str, object]:
    signed = report.signed_until
    return {
        "log": report.log.value,
        "intact": report.is_intact,
        "rows": report.rows,
        "unchained": report.unchained,
        "pruned": report.pruned,
        "checkpoints": report.checkpoints,
        "signed_until": moment(signed.at) if signed else None,
        "signed_by": signed.signed_by if signed else None,
        "unsigned_rows": report.unsigned_rows,
        "breaks": [
            {"number": b.number, "writer": b.writer, "position": b.position, "problem": b.problem}
            for b in report.breaks
        ],
        "more_breaks": report.more_breaks,
    }


@admin_command("prune", group=audit_group, example="citadel-cli audit prune --older-than 365d --dry-run")
@click.option("--older-than", type=DurationType(), required=True, help="Remove acts that were done so long ago.")
@click.option("--dry-run", is_flag=True, help="Only say how many would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def prune(invocation: Invocation, older_than: timedelta, *, dry_run: bool, yes: bool) -> None:
    """Remove the oldest acts; a signed anchor stays, from which `audit verify` goes on."""
    prune_records(invocation, LOGS[Log.AUDIT], older_than=older_than, dry_run=dry_run, yes=yes)


def _with_records(invocation: Invocation, store: str | None, work: Callable[[Records], Awaitable[T]]) -> T:
    async def on_channel(channel: aio.Channel) -> T:
        return await work(ServerRecords(channel))

    async def on_store(url: str) -> T:
        async with store_records(url) as records:
            return await work(records)

    return asyncio.run(on_store(store)) if store is not None else invocation.ask_service(on_channel)


def _timestamp(value: datetime | None) -> Timestamp | None:
    return to_timestamp(value) if value is not None else None
