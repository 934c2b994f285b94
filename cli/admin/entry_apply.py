"""`citadel-cli entry apply`: many entries from a file, all or none."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from citadel._wire import admin_pb2
from citadel.errors import InvalidArgument, Reason
from citadel.rpc import reason_of
from citadel.spiffe import SpiffeId
from citadel.wire import entry_to_wire
from cli.admin.entry_federation import warn_of, without_bundle
from cli.admin.entry_file import Document, Problems, read_documents
from cli.admin.invocation import Invocation, admin_command
from cli.admin.parameters import SpiffeIdType
from cli.admin.plain import to_plain
from cli.output import Form, echo, print_json

if TYPE_CHECKING:
    from citadel._wire.admin_pb2_grpc import AdminAsyncStub  # exists for type checkers only

EXIT_WOULD_CHANGE: Final = 10
_SECONDS: Final = 300.0
_ENTRIES_PER_MESSAGE: Final = 500
_BYTES_PER_MESSAGE: Final = 512 * 1024
_KINDS: Final = ("created", "updated", "deleted", "unchanged")


@admin_command("apply", example="citadel-cli entry apply -f entries.yaml --dry-run")
@click.option("--file", "-f", "source", required=True, metavar="FILE", help="YAML or JSON; - is standard input.")
@click.option("--dry-run", is_flag=True, help=f"Change nothing; exit {EXIT_WOULD_CHANGE} where something would change.")
@click.option(
    "--prune-parent",
    "prune",
    type=SpiffeIdType(),
    multiple=True,
    help="Delete the entries of this parent that are not in the file. Repeatable.",
)
def apply_command(invocation: Invocation, *, source: str, dry_run: bool, prune: tuple[SpiffeId, ...]) -> None:
    """Bring about that entries are as FILE says: all of them, or none where one cannot be.

    FILE holds entries in the form of `entry list -o json`: one, a list, or several YAML documents. An entry with an id
    is that one; any other is found by its SPIFFE ID, parent and selectors, or created. A field that is left out has its
    default. With `revision` an entry is changed only where it is still at that one.
    """
    name, text = _read(source)
    documents = read_documents(name, text)
    if not documents and not prune:
        raise InvalidArgument(Reason.ENTRY_MALFORMED, f"{name} holds no entries")
    answers = invocation.ask(lambda server: _apply(server, documents, dry_run=dry_run, prune=prune))
    _refuse(name, documents, answers)
    changes = [change for answer in answers for change in answer.changes]
    _show(invocation, changes, dry_run=dry_run)
    warn_of(without_bundle(invocation, (change.after for change in changes)))
    if dry_run and any(_kind(change) != "unchanged" for change in changes):
        click.get_current_context().exit(EXIT_WOULD_CHANGE)


def _read(source: str) -> tuple[str, bytes]:
    if source == "-":
        return "standard input", sys.stdin.buffer.read()
    try:
        return source, Path(source).read_bytes()
    except OSError as error:
        raise InvalidArgument(Reason.ENTRY_MALFORMED, f"{source} cannot be read: {error.strerror}") from error


async def _apply(
    server: AdminAsyncStub, documents: Sequence[Document], *, dry_run: bool, prune: Sequence[SpiffeId]
) -> list[admin_pb2.ApplyEntriesResponse]:
    async def requests() -> AsyncIterator[admin_pb2.ApplyEntriesRequest]:
        sent, shows = 0, sys.stderr.isatty()
        yield admin_pb2.ApplyEntriesRequest(dry_run=dry_run, prune_parent_ids=map(str, prune))
        for request in _portions(documents):
            yield request
            sent += len(request.entries)
            if shows:
                click.echo(f"\rsent {sent} of {len(documents)} entries", err=True, nl=sent == len(documents))

    return [answer async for answer in server.ApplyEntries(requests(), timeout=_SECONDS)]


def _portions(documents: Sequence[Document]) -> Iterator[admin_pb2.ApplyEntriesRequest]:
    request, size = admin_pb2.ApplyEntriesRequest(), 0
    for document in documents:
        message = entry_to_wire(document.entry)
        more = message.ByteSize()
        if request.entries and (len(request.entries) >= _ENTRIES_PER_MESSAGE or size + more > _BYTES_PER_MESSAGE):
            yield request
            request, size = admin_pb2.ApplyEntriesRequest(), 0
        request.entries.append(message)
        size += more
    if request.entries:
        yield request


def _refuse(name: str, documents: Sequence[Document], answers: Sequence[admin_pb2.ApplyEntriesResponse]) -> None:
    problems = Problems(name)
    for problem in (problem for answer in answers for problem in answer.problems):
        document = documents[problem.index]
        place = f"entry {problem.index + 1}" + (f", {problem.field}" if problem.field else "")
        fix = f"; {problem.fix}" if problem.fix else ""
        line = document.lines.get(problem.field, document.line)
        problems.add(line, f"{place}: {problem.message}{fix}", reason_of(problem.reason))
    problems.raise_any()


def _show(invocation: Invocation, changes: Sequence[admin_pb2.EntryChange], *, dry_run: bool) -> None:
    counts = Counter(map(_kind, changes))
    if invocation.form is Form.JSON:
        told = [to_plain(change) for change in changes if _kind(change) != "unchanged"]
        print_json({"dry_run": dry_run, "counts": {kind: counts[kind] for kind in _KINDS}, "changes": told})
        return
    for change in changes:
        if _kind(change) != "unchanged":
            entry = change.after if change.HasField("after") else change.before
            # Before it is done a new entry has no id that anybody could use.
            shown = "" if dry_run and _kind(change) == "created" else f"{entry.id} "
            echo(f"{_kind(change)} {shown}{entry.spiffe_id} under {entry.parent_id}")
            _show_fields(change)
    would = "would be " if dry_run else ""
    echo(", ".join(f"{counts[kind]} {would if kind != 'unchanged' else ''}{kind}" for kind in _KINDS))


def _show_fields(change: admin_pb2.EntryChange) -> None:
    before, after = to_plain(change.before), to_plain(change.after)
    for name in change.changed_fields:
        echo(f"  {name}: {_value(before[name])} -> {_value(after[name])}")


def _value(value: Any) -> str:
    return json.dumps(value)


def _kind(change: admin_pb2.EntryChange) -> str:
    return str(admin_pb2.EntryChange.Kind.Name(change.kind)).lower()
