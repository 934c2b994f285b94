"""`citadel-cli svid mint`: a certificate that no entry grants, for whoever administers the server."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf.duration_pb2 import Duration

from citadel._wire import insight_pb2 as pb
from citadel._wire.insight_pb2_grpc import InsightStub
from citadel.bundle import TrustBundle
from citadel.config.files import write_private
from citadel.errors import AlreadyExists, InvalidArgument, Reason
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.svid import X509Svid
from citadel.wire import from_timestamp
from cli.admin.invocation import CALL_SECONDS, Invocation, admin_command
from cli.admin.parameters import DurationType, SpiffeIdType, TextType
from cli.admin.tables import moment_and_distance, print_fields
from cli.output import Form, print_json

CERTIFICATE_FILE: Final = "svid.pem"
KEY_FILE: Final = "svid_key.pem"
BUNDLE_FILE: Final = "bundle.pem"


@admin_command(
    "mint",
    example="citadel-cli svid mint --spiffe-id spiffe://example.org/job --ttl 10m --write ./job --reason 'repair run'",
)
@click.option("--spiffe-id", type=SpiffeIdType(), required=True, help="The identity; never one of Citadel's own.")
@click.option("--ttl", type=DurationType(), help="How long it is good; the server's default otherwise.")
@click.option("--dns", "dns_names", type=TextType(), multiple=True, help="A DNS name in it. Repeatable.")
@click.option(
    "--write", "folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="Where to write it."
)
@click.option("--reason", "why", type=TextType(), required=True, help="Why it is needed; the audit log keeps it.")
def mint(
    invocation: Invocation,
    spiffe_id: SpiffeId,
    ttl: timedelta | None,
    dns_names: tuple[str, ...],
    folder: Path,
    why: str,
) -> None:
    """Make a key here, have it signed without an entry, and write svid.pem, svid_key.pem and bundle.pem (mode 0600).

    The key never leaves this machine. Files that are there already are not replaced.
    """
    _prepare(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    request = pb.MintX509SvidRequest(
        spiffe_id=str(spiffe_id),
        csr=csr.public_bytes(Encoding.DER),
        ttl=_duration(ttl) if ttl is not None else None,
        dns_names=dns_names,
        why=why,
    )
    answer = invocation.ask_service(lambda channel: InsightStub(channel).MintX509Svid(request, timeout=CALL_SECONDS))
    svid = X509Svid.from_der(list(answer.chain))
    bundle = TrustBundle.from_json(TrustDomain.parse(answer.bundle.trust_domain), answer.bundle.json)
    _write(
        folder,
        {
            KEY_FILE: key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            CERTIFICATE_FILE: svid.chain_pem,
            BUNDLE_FILE: bundle.to_pem(),
        },
    )
    _tell(invocation, answer, svid, folder)


def _tell(invocation: Invocation, answer: pb.MintX509SvidResponse, svid: X509Svid, folder: Path) -> None:
    not_after = from_timestamp(answer.not_after)
    if invocation.form is Form.JSON:
        print_json(
            {
                "spiffe_id": str(svid.spiffe_id),
                "serial": svid.serial,
                "not_after": not_after.isoformat(),
                "lifetime_limited_by": answer.lifetime_limited_by,
                "certificate": str(folder / CERTIFICATE_FILE),
                "key": str(folder / KEY_FILE),
                "bundle": str(folder / BUNDLE_FILE),
            }
        )
        return
    print_fields(
        (
            ("SPIFFE ID", svid.spiffe_id),
            ("serial", svid.serial),
            ("valid until", moment_and_distance(not_after, invocation.clock.now())),
            ("limited by", answer.lifetime_limited_by),
            ("written to", folder),
        )
    )


def _prepare(folder: Path) -> None:
    """Before anything is signed: what could not be kept must not be issued."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        existing = [name for name in (CERTIFICATE_FILE, KEY_FILE, BUNDLE_FILE) if (folder / name).exists()]
    except OSError as error:
        raise _unwritable(folder, error) from error
    if existing:
        raise AlreadyExists(
            Reason.FILE_UNSAFE, f"{folder / existing[0]} exists already", fix="name another folder with --write"
        )


def _write(folder: Path, files: dict[str, bytes]) -> None:
    try:
        for name, content in files.items():
            write_private(folder / name, content)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> InvalidArgument:
    return InvalidArgument(
        Reason.FILE_UNSAFE, f"cannot write to {folder}: {error.strerror}", fix="choose another folder"
    )


def _duration(value: timedelta) -> Duration:
    message = Duration()
    message.FromTimedelta(value)
    return message
