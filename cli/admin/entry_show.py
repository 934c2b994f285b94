"""How entries are shown to people and programs."""

from __future__ import annotations

from datetime import timedelta

from citadel._wire import types_pb2
from citadel.config.types import format_duration
from citadel.entry import Entry
from citadel.wire import entry_from_wire
from cli.admin.entry_federation import warn_of, without_bundle
from cli.admin.invocation import Invocation
from cli.admin.plain import to_plain
from cli.admin.tables import moment, moment_and_distance, print_fields
from cli.output import Form, print_json


def show_entry(invocation: Invocation, message: types_pb2.Entry) -> None:
    """One entry, a line for each field."""
    unknown = without_bundle(invocation, [message])
    warn_of(unknown)
    if invocation.form is Form.JSON:
        print_json(to_plain(message))
        return
    entry = entry_from_wire(message)
    partners = [f"{each} (no bundle known)" if each.name in unknown else each.name for each in entry.federates_with]
    print_fields(
        (
            ("id", entry.id),
            ("SPIFFE ID", entry.spiffe_id),
            ("parent", entry.parent_id),
            ("selectors", sorted(entry.selectors)),
            ("X.509-SVID lifetime", ttl_text(entry.x509_svid_ttl)),
            ("JWT-SVID lifetime", ttl_text(entry.jwt_svid_ttl)),
            ("DNS names", entry.dns_names),
            ("federates with", sorted(partners)),
            ("hint", entry.hint),
            ("expires", moment_and_distance(entry.expires_at, invocation.clock.now())),
            ("flags", flags_text(entry)),
            ("revision", entry.revision),
            ("created", moment(entry.created_at)),
            ("origin", entry.origin or "registered by hand"),
        )
    )


def ttl_text(value: timedelta | None) -> str:
    """A lifetime that an entry may leave to the server."""
    return format_duration(value) if value is not None else "default"


def flags_text(entry: Entry) -> list[str]:
    """The flags that are set."""
    return [name for name, is_set in (("admin", entry.admin), ("downstream", entry.downstream)) if is_set]
