"""`citadel-cli ledger`: every certificate that was issued."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from ca.ledger.chain import Log
from citadel._wire import records_pb2 as pb
from citadel._wire.records_pb2_grpc import RecordsStub
from citadel.errors import NotFound, Reason
from citadel.wire import from_timestamp, to_timestamp
from cli.admin.chains import LOGS
from cli.admin.invocation import CALL_SECONDS, Invocation, admin_command
from cli.admin.parameters import DurationType, MomentType, SpiffeIdType, TextType
from cli.admin.plain import to_plain
from cli.admin.pruning import prune_records
from cli.admin.tables import moment_and_distance, moment_cell, print_fields, print_table, serial_cell
from cli.output import Form, print_json

if TYPE_CHECKING:
    from citadel._wire.records_pb2_grpc import RecordsAsyncStub  # exists for type checkers only


@click.group("ledger")
def ledger_group() -> None:
    """The ledger: every certificate that left the server, and who asked for it."""


@admin_command("list", group=ledger_group, example="citadel-cli ledger list --spiffe-id spiffe://example.org/web")
@click.option("--spiffe-id", type=SpiffeIdType(), help="Only certificates of this identity.")
@click.option("--serial", type=TextType(), help="Only the certificate with this serial number, in hex.")
@click.option("--agent", type=SpiffeIdType(), help="Only what this agent asked for.")
@click.option(
    "--entry", type=TextType(), help="Only what was issued for this entry; looks along the time, not an index."
)
@click.option("--since", type=MomentType(), help="Issued from this time on.")
@click.option("--until", type=MomentType(), help="Issued before this time.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many, the newest."
)
def list_certificates(invocation: Invocation, limit: int, **filters: Any) -> None:
    """List certificates, the newest first."""
    found = _ask(invocation, _request(**filters), limit)
    if invocation.form is Form.JSON:
        print_json([to_plain(certificate) for certificate in found])
    else:
        _print(found, invocation.clock.now())


@admin_command("show", group=ledger_group, example="citadel-cli ledger show 5f0c2a91d3")
@click.argument("serial", type=TextType())
def show(invocation: Invocation, serial: str) -> None:
    """Show all that the ledger knows of one certificate; SERIAL is in hex."""
    found = _ask(invocation, _request(serial=serial), 1)
    if not found:
        raise NotFound(
            Reason.RECORD_NOT_FOUND,
            f"no certificate with the serial {serial} is in the ledger",
            fix="`citadel-cli ledger list` shows serials; expired ones are removed after `ledger.keep`",
        )
    certificate = found[0]
    if invocation.form is Form.JSON:
        print_json(to_plain(certificate))
        return
    now = invocation.clock.now()
    print_fields(
        (
            ("serial", certificate.serial),
            ("SPIFFE ID", certificate.spiffe_id),
            ("entry", certificate.entry_id),
            ("requested by", certificate.requested_by),
            ("issued at", moment_and_distance(from_timestamp(certificate.issued_at), now)),
            ("not before", moment_and_distance(from_timestamp(certificate.not_before), now)),
            ("not after", moment_and_distance(from_timestamp(certificate.not_after), now)),
            ("lifetime limited by", certificate.lifetime_limited_by),
            ("issuing authority", certificate.issuer_id),
            ("public key (SHA-256)", certificate.public_key),
            ("place in the chain", _place(certificate)),
        )
    )


@admin_command("prune", group=ledger_group, example="citadel-cli ledger prune --older-than 90d --dry-run")
@click.option("--older-than", type=DurationType(), required=True, help="Remove certificates that expired so long ago.")
@click.option("--dry-run", is_flag=True, help="Only say how many would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def prune(invocation: Invocation, older_than: timedelta, *, dry_run: bool, yes: bool) -> None:
    """Remove the oldest expired certificates; a signed anchor stays, from which `audit verify` goes on."""
    prune_records(invocation, LOGS[Log.LEDGER], older_than=older_than, dry_run=dry_run, yes=yes)


def _request(**filters: Any) -> pb.ListCertificatesRequest:
    since, until = filters.get("since"), filters.get("until")
    return pb.ListCertificatesRequest(
        spiffe_id=str(filters.get("spiffe_id") or ""),
        serial=(filters.get("serial") or "").lower().replace(":", ""),
        requested_by=str(filters.get("agent") or ""),
        entry_id=filters.get("entry") or "",
        since=to_timestamp(since) if since is not None else None,
        until=to_timestamp(until) if until is not None else None,
    )


def _ask(invocation: Invocation, request: pb.ListCertificatesRequest, limit: int) -> Sequence[pb.Certificate]:
    return invocation.ask_service(lambda channel: _pages(RecordsStub(channel), request, limit))


async def _pages(records: RecordsAsyncStub, request: pb.ListCertificatesRequest, limit: int) -> list[pb.Certificate]:
    found: list[pb.Certificate] = []
    while True:
        request.page_size = limit - len(found)
        page = await records.ListCertificates(request, timeout=CALL_SECONDS)
        found += page.certificates
        if len(found) >= limit or not page.next_page_token:
            return found
        request.page_token = page.next_page_token


def _print(found: Sequence[pb.Certificate], now: datetime) -> None:
    print_table(
        ("ISSUED", "SERIAL", "SPIFFE ID", "AGENT", "ENTRY", "NOT AFTER"),
        (
            (
                moment_cell(from_timestamp(certificate.issued_at), now),
                serial_cell(certificate.serial),
                certificate.spiffe_id,
                certificate.requested_by,
                certificate.entry_id,
                moment_cell(from_timestamp(certificate.not_after), now),
            )
            for certificate in found
        ),
        none="no certificate fits",
    )


def _place(certificate: pb.Certificate) -> str:
    if not certificate.writer:
        return "none: it was issued before there was a chain"
    return f"row {certificate.position} of writer {certificate.writer}"
