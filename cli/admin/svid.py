"""`citadel-cli svid`: look at X509-SVIDs, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, BinaryIO

import click
from cryptography import x509

from citadel.certificate_chain import read_chain
from citadel.config.types import format_duration
from citadel.errors import InvalidArgument, Reason
from cli.admin.certificate import broken_rules, describe
from cli.admin.invocation import Invocation, admin_command
from cli.admin.tables import about, moment_and_distance, print_fields, print_heading, print_table
from cli.output import Form, echo, print_json, printable


@click.group("svid")
def svid_group() -> None:
    """X509-SVIDs in files."""


@admin_command(
    "inspect",
    group=svid_group,
    example="openssl s_client -showcerts -connect web:443 </dev/null | citadel-cli svid inspect -",
)
@click.argument("file", type=click.File("rb"))
def inspect(invocation: Invocation, file: BinaryIO) -> None:
    """Show what the chain in FILE (PEM or DER, `-` for standard input) says, and which X509-SVID rules it breaks.

    Needs no server, and does not check whom the certificate is trusted by. Ends with exit code 3 when a rule is broken.
    """
    chain = read_chain(file.read())
    now = invocation.clock.now()
    problems = broken_rules(chain, now)
    if invocation.form is Form.JSON:
        print_json(_plain(chain, problems, now))
    else:
        _print(chain, problems, now)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InvalidArgument(Reason.SVID_MALFORMED, f"not a good X509-SVID: {problems[0]}{more}", fix=_fix(chain))


def _fix(chain: Sequence[x509.Certificate]) -> str:
    if describe(chain[0])["is_ca"]:
        return "put the leaf first: the input begins with a CA certificate, so its order may be reversed"
    return ""


def _plain(chain: Sequence[x509.Certificate], problems: list[str], now: datetime) -> dict[str, Any]:
    leaf = describe(chain[0])
    return {
        "valid": not problems,
        "problems": problems,
        "spiffe_id": _spiffe_id(leaf),
        "remaining_seconds": int((chain[0].not_valid_after_utc - now).total_seconds()),
        **leaf,
        "intermediates": [describe(certificate) for certificate in chain[1:]],
    }


def _print(chain: Sequence[x509.Certificate], problems: list[str], now: datetime) -> None:
    leaf, said = chain[0], describe(chain[0])
    left = leaf.not_valid_after_utc - now
    lifetime = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    print_fields(
        (
            ("SPIFFE ID", _spiffe_id(said)),
            ("serial", said["serial"]),
            ("valid from", moment_and_distance(leaf.not_valid_before_utc, now)),
            ("valid until", moment_and_distance(leaf.not_valid_after_utc, now)),
            ("remaining", f"{about(left)} of {format_duration(lifetime)}" if left.total_seconds() > 0 else "nothing"),
            ("key", said["key"]),
            ("signed with", said["signature_algorithm"]),
            ("issuer", said["issuer"]),
            ("subject", said["subject"]),
            *((f"SAN {kind}", names) for kind, names in said["sans"].items() if names),
            ("is a CA", "yes" if said["is_ca"] else "no"),
            ("key usage", said["key_usage"]),
            ("extended key usage", said["extended_key_usage"]),
        )
    )
    if len(chain) > 1:
        print_heading("above the leaf")
        print_table(
            ("SUBJECT", "SERIAL", "NOT AFTER", "ISSUER"),
            (
                (above["subject"], above["serial"], above["not_after"], above["issuer"])
                for above in map(describe, chain[1:])
            ),
            none="",
        )
    if problems:
        print_heading("broken rules")
        for problem in problems:
            echo(f"- {printable(problem)}")


def _spiffe_id(leaf: dict[str, Any]) -> str | None:
    uris = leaf["sans"]["uri"]
    return str(uris[0]) if len(uris) == 1 else None
