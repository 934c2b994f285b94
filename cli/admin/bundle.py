"""`citadel-cli bundle`: which roots are trusted, of the own trust domain and of foreign ones."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from citadel._wire import admin_pb2 as pb
from citadel._wire import federation_pb2, types_pb2
from citadel._wire.federation_pb2_grpc import BundlesStub
from citadel.bundle import TrustBundle
from citadel.config.types import format_duration
from citadel.serial import serial_hex
from citadel.spiffe import TrustDomain
from cli.admin.bundle_acts import delete, list_, set_
from cli.admin.certificate import name_text, rfc3339
from cli.admin.invocation import CALL_SECONDS, Invocation, admin_command
from cli.admin.parameters import TrustDomainType
from cli.admin.tables import moment_and_distance, print_fields, print_heading, print_table
from cli.output import Form, echo, print_json


@click.group("bundle")
def bundle_group() -> None:
    """Trust bundles: of the server's own trust domain, and of foreign ones."""


@admin_command("show", group=bundle_group, example="citadel-cli bundle show --format pem > roots.pem")
@click.argument("name", type=TrustDomainType(), required=False)
@click.option(
    "--format",
    "document",
    type=click.Choice(["spiffe", "pem"]),
    help="Print the document itself: SPIFFE's JSON, or the X.509 authorities in PEM.",
)
@click.option("--own", is_flag=True, help="Without the roots of other clusters of the own trust domain.")
def show(invocation: Invocation, name: TrustDomain | None, document: str | None, *, own: bool) -> None:
    """Show the authorities of a bundle, or print it in a form that other programs take.

    NAME is a foreign trust domain. Without it, the bundle of the own one is shown.
    """
    if own and name is not None:
        raise click.UsageError("--own is of the own trust domain: leave NAME out")
    message = _ask(invocation, name)
    bundle = TrustBundle.from_json(TrustDomain.parse(message.trust_domain), message.json)
    exchanged = frozenset(message.for_workloads_alone)
    if own:
        ours = (each for each in bundle.x509_authorities if each.fingerprint(hashes.SHA256()) not in exchanged)
        bundle = replace(bundle, x509_authorities=tuple(ours))
    if document == "spiffe":
        echo(bundle.to_json())
    elif document == "pem":
        echo(bundle.to_pem(), nl=False)
    elif invocation.form is Form.JSON:
        print_json(_plain(bundle, exchanged))
    else:
        _print(bundle, exchanged, invocation.clock.now())


def _ask(invocation: Invocation, name: TrustDomain | None) -> types_pb2.Bundle:
    if name is None:
        return invocation.ask(lambda admin: admin.GetOwnBundle(pb.GetOwnBundleRequest(), timeout=CALL_SECONDS))
    request = federation_pb2.GetForeignBundleRequest(trust_domain=name.name)
    return invocation.ask_service(lambda channel: BundlesStub(channel).GetBundle(request, timeout=CALL_SECONDS)).bundle


def _plain(bundle: TrustBundle, exchanged: Collection[bytes]) -> dict[str, object]:
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
                "exchanged": authority.fingerprint(hashes.SHA256()) in exchanged,
            }
            for authority in bundle.x509_authorities
        ],
        "jwt_key_ids": sorted(bundle.jwt_authorities),
    }


def _print(bundle: TrustBundle, exchanged: Collection[bytes], now: datetime) -> None:
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
        ("SUBJECT", "SERIAL", "NOT AFTER", "SHA-256", "OF"),
        (
            (
                name_text(authority.subject),
                serial_hex(authority.serial_number),
                moment_and_distance(authority.not_valid_after_utc, now),
                _fingerprint(authority),
                "another cluster" if authority.fingerprint(hashes.SHA256()) in exchanged else "",
            )
            for authority in bundle.x509_authorities
        ),
        none="none: nothing is trusted",
    )


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


for _command in (list_, set_, delete):
    bundle_group.add_command(_command)
