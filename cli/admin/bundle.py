"""`citadel-cli bundle`: what the server's trust domain trusts."""

from __future__ import annotations

from datetime import datetime

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from citadel._wire import admin_pb2 as pb
from citadel.bundle import TrustBundle
from citadel.config.types import format_duration
from citadel.serial import serial_hex
from citadel.spiffe import TrustDomain
from cli.admin.certificate import name_text, rfc3339
from cli.admin.invocation import CALL_SECONDS, Invocation, admin_command
from cli.admin.tables import moment_and_distance, print_fields, print_heading, print_table
from cli.output import Form, echo, print_json


@click.group("bundle")
def bundle_group() -> None:
    """The trust bundle of the server's own trust domain."""


@admin_command("show", group=bundle_group, example="citadel-cli bundle show --format pem > roots.pem")
@click.option(
    "--format",
    "document",
    type=click.Choice(["spiffe", "pem"]),
    help="Print the document itself: SPIFFE's JSON, or the X.509 authorities in PEM.",
)
def show(invocation: Invocation, document: str | None) -> None:
    """Show the bundle's authorities, or print the bundle in a form that other programs take."""
    message = invocation.ask(lambda admin: admin.GetOwnBundle(pb.GetOwnBundleRequest(), timeout=CALL_SECONDS))
    bundle = TrustBundle.from_json(TrustDomain.parse(message.trust_domain), message.json)
    if document == "spiffe":
        echo(message.json)
    elif document == "pem":
        echo(bundle.to_pem(), nl=False)
    elif invocation.form is Form.JSON:
        print_json(_plain(bundle))
    else:
        _print(bundle, invocation.clock.now())


def _plain(bundle: TrustBundle) -> dict[str, object]:
    return {
        "trust_domain": bundle.trust_domain.name,
        "sequence": bundle.sequence,
        "refresh_hint_seconds": int(bundle.refresh_hint.total_seconds()) if bundle.refresh_hint is not None else None,
        "sha256": bundle.x509_digest(),
        "x509_authorities": [
            {
                "subject": name_text(authority.subject),
                "serial": serial_hex(authority.serial_number),
                "not_before": rfc3339(authority.not_valid_before_utc),
                "not_after": rfc3339(authority.not_valid_after_utc),
                "sha256": _fingerprint(authority),
            }
            for authority in bundle.x509_authorities
        ],
        "jwt_key_ids": sorted(bundle.jwt_authorities),
    }


def _print(bundle: TrustBundle, now: datetime) -> None:
    hint = bundle.refresh_hint
    print_fields(
        (
            ("trust domain", bundle.trust_domain),
            ("sequence", bundle.sequence),
            ("refresh hint", format_duration(hint) if hint is not None else None),
            ("sha256", bundle.x509_digest()),
            ("JWT key ids", sorted(bundle.jwt_authorities)),
        )
    )
    print_heading("X.509 authorities")
    print_table(
        ("SUBJECT", "SERIAL", "NOT AFTER", "SHA-256"),
        (
            (
                name_text(authority.subject),
                serial_hex(authority.serial_number),
                moment_and_distance(authority.not_valid_after_utc, now),
                _fingerprint(authority),
            )
            for authority in bundle.x509_authorities
        ),
        none="none: nothing is trusted",
    )


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()
