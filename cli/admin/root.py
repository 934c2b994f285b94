"""`citadel-cli root`: an offline root, and the authorities of clusters under it. Needs no server."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from ca.authority.offline import AuthorityKeyKind, ClusterAuthority, OfflineRoot, check_cluster_name, new_authority_key
from ca.authority.offline_request import requested_key
from ca.keys.kinds import AuthorityKey, AuthorityPublicKey
from citadel.serial import serial_hex
from citadel.spiffe import TrustDomain
from cli.admin import root_files
from cli.admin.certificate import rfc3339
from cli.admin.invocation import Invocation, admin_command
from cli.admin.parameters import DurationType, TextType, TrustDomainType
from cli.admin.root_show import show_command
from cli.admin.tables import moment_and_distance, print_fields
from cli.output import Form, echo, print_json

_FOLDER: Final = click.Path(path_type=Path, file_okay=False)
_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_KEY: Final = click.option(
    "--key",
    "kind",
    type=click.Choice([each.value for each in AuthorityKeyKind]),
    default=AuthorityKeyKind.EC_P256.value,
    show_default=True,
    callback=lambda _, __, value: AuthorityKeyKind(value),
    help="What its key is.",
)
_PASSPHRASE_FILE: Final = click.option(
    "--passphrase-file",
    type=_FILE,
    help="File with the passphrase of the root's key, mode 0600; "
    f"that of a new one has at least {root_files.SHORTEST_PASSPHRASE} bytes.",
)
_ANY_IDENTITY: Final = (
    "every cluster under this root can mint every identity of {}: the clusters must trust each other fully"
)
_ONLY_ITS_OWN: Final = (
    "what this authority signs for another trust domain than {} is refused by whoever trusts the root "
    "(a critical name constraint)"
)


@click.group("root")
def root_group() -> None:
    """A root that is kept offline, and an authority under it for each cluster. Needs no server."""


@admin_command("init", group=root_group, example="citadel-cli root init --trust-domain example.org --out ./root")
@click.option("--trust-domain", type=TrustDomainType(), help="The one trust domain that it is for; else for several.")
@click.option("--out", "folder", type=_FOLDER, required=True, help="The folder to make; it must not exist.")
@click.option("--lifetime", type=DurationType(), default="3650d", show_default=True, help="How long it is valid.")
@_KEY
@click.option(
    "--ask-passphrase",
    is_flag=True,
    help="Encrypt the key with a passphrase that is asked for at the terminal, of at least "
    f"{root_files.SHORTEST_PASSPHRASE} bytes.",
)
@_PASSPHRASE_FILE
def init_command(
    invocation: Invocation,
    *,
    trust_domain: TrustDomain | None,
    folder: Path,
    lifetime: timedelta,
    kind: AuthorityKeyKind,
    ask_passphrase: bool,
    passphrase_file: Path | None,
) -> None:
    """Make a root: root-cert.pem and root-key.pem (mode 0600) in a new folder (mode 0700).

    With --trust-domain it is for clusters of that one trust domain. Without, it is for clusters of several: then each
    authority that it signs is confined to its own by a name constraint.
    """
    root_files.check_free(folder)
    passphrase = root_files.new_passphrase(passphrase_file, is_asked=ask_passphrase)
    root = OfflineRoot.make(trust_domain=trust_domain, kind=kind, now=invocation.clock.now(), lifetime=lifetime)
    files = {
        root_files.ROOT_KEY: root_files.key_pem(root.key, passphrase),
        root_files.ROOT_CERTIFICATE: root_files.pem(root.certificate),
    }
    root_files.write_folder(folder, files)
    certificate = root.certificate
    said = {
        "folder": str(folder),
        "trust_domain": trust_domain.name if trust_domain is not None else None,
        "sha256": _fingerprint(certificate),
        "not_after": rfc3339(certificate.not_valid_after_utc),
        "is_encrypted": passphrase is not None,
    }
    if invocation.form is Form.JSON:
        print_json(said)
        return
    print_fields(
        (
            ("written to", folder),
            ("trust domain", said["trust_domain"] or "any: each cluster is confined to its own"),
            ("SHA-256", said["sha256"]),
            ("valid until", moment_and_distance(certificate.not_valid_after_utc, invocation.clock.now())),
            ("key", "encrypted with the passphrase" if passphrase is not None else "not encrypted"),
        )
    )
    echo(f"\nKeep {folder / root_files.ROOT_KEY} off every server, and a copy of it too: with it one is anybody.")


@admin_command(
    "sign", group=root_group, example="citadel-cli root sign west --root ./root --trust-domain example.org --out ./west"
)
@click.argument("cluster", type=TextType())
@click.option("--root", "root_folder", type=_FOLDER, required=True, help="The folder with the root.")
@click.option("--trust-domain", type=TrustDomainType(), required=True, help="The trust domain of the cluster.")
@click.option("--csr", type=click.File("rb"), help="A certificate request: then the key never leaves its maker.")
@click.option("--lifetime", type=DurationType(), default="365d", show_default=True, help="How long it is valid.")
@click.option("--out", "folder", type=_FOLDER, help="The folder to make; ./CLUSTER otherwise. It must not exist.")
@_KEY
@click.option("--trust", type=_FILE, multiple=True, help="Further roots (PEM) for root-cert.pem. Repeatable.")
@_PASSPHRASE_FILE
def sign_command(  # noqa: PLR0913 - one parameter for each option
    invocation: Invocation,
    *,
    cluster: str,
    root_folder: Path,
    trust_domain: TrustDomain,
    csr: BinaryIO | None,
    lifetime: timedelta,
    folder: Path | None,
    kind: AuthorityKeyKind,
    trust: tuple[Path, ...],
    passphrase_file: Path | None,
) -> None:
    """Sign the issuing authority of CLUSTER, as the folder that Istio calls cacerts.

    It holds ca-cert.pem, ca-key.pem (not with --csr), cert-chain.pem and root-cert.pem: what `upstream.files` of a
    server takes. What was signed is noted in signed.jsonl beside the root.
    """
    check_cluster_name(cluster)
    folder = folder or Path(cluster)
    root_files.check_free(folder)
    request = csr.read() if csr is not None else None
    key = new_authority_key(kind) if request is None else None
    public_key = _public_key(key, request, trust_domain)
    further = root_files.read_further_roots(trust, clock=invocation.clock)
    root = root_files.read_root(root_folder, passphrase_file=passphrase_file, clock=invocation.clock)
    now = invocation.clock.now()
    signed = root.sign(cluster=cluster, trust_domain=trust_domain, public_key=public_key, now=now, lifetime=lifetime)
    said = _said(cluster, trust_domain, signed, folder, now=now, by_request=request is not None)
    root_files.note_signed(root_folder, said)
    files = {
        "ca-cert.pem": root_files.pem(signed.certificate),
        "cert-chain.pem": root_files.pem(signed.certificate, root.certificate),
        root_files.ROOT_CERTIFICATE: root_files.pem(*dict.fromkeys((root.certificate, *further))),
    }
    if key is not None:
        files["ca-key.pem"] = root_files.key_pem(key)
    root_files.write_folder(folder, files)
    note = (_ONLY_ITS_OWN if signed.is_constrained else _ANY_IDENTITY).format(trust_domain)
    if invocation.form is Form.JSON:
        print_json({**said, "note": note})
        return
    print_fields(
        (
            ("written to", folder),
            ("serial", said["serial"]),
            ("valid until", moment_and_distance(signed.certificate.not_valid_after_utc, now)),
            ("key", "with who made the request" if key is None else folder / "ca-key.pem"),
        )
    )
    echo(f"\n{note[0].upper()}{note[1:]}.")


root_group.add_command(show_command)


def _public_key(key: AuthorityKey | None, request: bytes | None, trust_domain: TrustDomain) -> AuthorityPublicKey:
    if request is not None:
        return requested_key(request, trust_domain)
    assert key is not None  # noqa: S101 - for the type checker: it is made where nobody brings one
    return key.public_key()


def _said(
    cluster: str, trust_domain: TrustDomain, signed: ClusterAuthority, folder: Path, *, now: datetime, by_request: bool
) -> dict[str, Any]:
    certificate = signed.certificate
    return {
        "cluster": cluster,
        "trust_domain": trust_domain.name,
        "serial": serial_hex(certificate.serial_number),
        "sha256": _fingerprint(certificate),
        "not_before": rfc3339(certificate.not_valid_before_utc),
        "not_after": rfc3339(certificate.not_valid_after_utc),
        "is_constrained": signed.is_constrained,
        "by_request": by_request,
        "signed_at": rfc3339(now),
        "folder": str(folder.absolute()),
    }


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()
