"""`citadel-cli root show`: what a file or folder of authorities holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from ca.authority.soundness import authority_faults, trust_domain_of
from citadel.certificate_chain import read_chain
from citadel.certification_path import UNREADABLE, extension_of
from citadel.config.files import read_public_file
from citadel.errors import NotFound, Reason
from cli.admin.certificate import describe
from cli.admin.invocation import Invocation, admin_command
from cli.admin.root_files import signed_so_far
from cli.admin.tables import print_heading, print_table
from cli.output import Form, echo, print_json, printable

_CERTIFICATE: Final = b"CERTIFICATE-----"
_NAMES: Final = ("*.pem", "*.crt")


@admin_command("show", example="citadel-cli root show ./west")
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE|DIR")
def show_command(invocation: Invocation, path: Path) -> None:
    """Show the certificates in a file or a folder, and what a root there has signed."""
    if not path.exists():
        raise NotFound(Reason.FILE_UNSAFE, f"there is no file or folder {path}")
    certificates = [(file.name, each) for file in _files(path) for each in _certificates(file)]
    if not certificates:
        raise NotFound(Reason.FILE_UNSAFE, f"there is no certificate in {path}")
    now = invocation.clock.now()
    rows = [
        {
            "file": name,
            **describe(each),
            "sha256": each.fingerprint(hashes.SHA256()).hex(),
            **_authority(each),
            "faults": list(authority_faults(each, now=now, is_anchor=each.issuer == each.subject)),
        }
        for name, each in certificates
    ]
    signed = signed_so_far(path) if path.is_dir() else []
    if invocation.form is Form.JSON:
        print_json({"certificates": rows, "signed": signed})
        return
    print_table(
        ("FILE", "SUBJECT", "KEY", "PATH LENGTH", "TRUST DOMAIN", "SIGNS ONLY FOR", "NOT AFTER"),
        (
            (
                row["file"],
                row["subject"],
                row["key"],
                "-" if row["path_length"] is None else row["path_length"],
                row["trust_domain"] or "-",
                ", ".join(row["signs_only_for"]) or "-",
                row["not_after"],
            )
            for row in rows
        ),
        none="",
    )
    if any(row["faults"] for row in rows):
        print_heading("faults")
        for row in rows:
            for fault in row["faults"]:
                echo(f"- {printable(row['file'])} {printable(fault)}")
    if signed:
        print_heading("signed by this root")
        print_table(
            ("CLUSTER", "TRUST DOMAIN", "SERIAL", "NOT AFTER", "SIGNED"),
            ((e["cluster"], e["trust_domain"], e["serial"], e["not_after"], e["signed_at"]) for e in signed),
            none="",
        )


def _files(path: Path) -> list[Path]:
    return sorted(each for name in _NAMES for each in path.glob(name)) if path.is_dir() else [path]


def _certificates(file: Path) -> tuple[x509.Certificate, ...]:
    content = read_public_file(file)
    return read_chain(content) if _CERTIFICATE in content else ()


def _authority(certificate: x509.Certificate) -> dict[str, Any]:
    try:
        constraints = extension_of(certificate, x509.BasicConstraints)
        names = extension_of(certificate, x509.NameConstraints)
        return {
            "path_length": constraints.path_length if constraints is not None else None,
            "trust_domain": trust_domain_of(certificate),
            "signs_only_for": [str(each.value) for each in (names.permitted_subtrees or ()) if names is not None]
            if names is not None
            else [],
        }
    except UNREADABLE:
        return {"path_length": None, "trust_domain": None, "signs_only_for": []}
