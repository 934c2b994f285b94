"""Where the facts of a cluster are from: its server, a file that one wrote, or the folder that it runs on."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from google.protobuf import json_format

from citadel._wire import trust_pb2 as pb
from citadel.certification_path import UNREADABLE, extension_of
from citadel.errors import CitadelError, InvalidArgument, NotFound, Reason
from citadel.name_constraints import permitted_hosts
from citadel.spiffe import SpiffeId, TrustDomain
from cli.trust.facts import ClusterFacts, Source, facts_of

_MOST_BYTES: Final = 64 * 1024 * 1024  # of what is read: a thousand foreign bundles are a few MB
# Istio's names, and cert-manager's; each with the chain above the first certificate, where it is a file of its own.
_FOLDERS: Final = (("ca-cert.pem", "cert-chain.pem", "root-cert.pem"), ("tls.crt", None, "ca.crt"))


def to_file(message: pb.ClusterFacts) -> str:
    """What `trust export` writes: the facts as JSON."""
    return json_format.MessageToJson(message, preserving_proto_field_name=True) + "\n"


def gather(path: Path, *, ask: Callable[[Path], pb.ClusterFacts], now: Callable[[], datetime]) -> ClusterFacts:
    """The facts of the cluster that `path` stands for; `ask` asks the server at an admin socket.

    Raises `NotFound` (`config_invalid`) where there is nothing, `InvalidArgument` for what cannot be read, and what
    `ask` raises.
    """
    if path.is_socket() or (path.suffix == ".sock" and not path.exists()):  # it says that no server runs
        return facts_of(ask(path), source=Source.SERVER, now=now())
    if path.is_dir():
        return _of_folder(path)
    if not path.exists():
        raise NotFound(
            Reason.CONFIG_INVALID,
            f"there is nothing at {path}",
            fix="name a server's admin socket, a file of `citadel-cli trust export`, or a folder with ca-cert.pem",
        )
    try:
        return facts_of(_of_file(path), source=Source.FILE, now=now())
    except InvalidArgument as error:
        raise _unreadable(path, error.message) from error


def _of_file(path: Path) -> pb.ClusterFacts:
    data = _read(path)
    try:
        if _is_bundle(data):
            raise InvalidArgument(
                Reason.CONFIG_INVALID,
                "it is a trust bundle; `citadel-cli trust export --write FILE` makes what is wanted",
            )
        return json_format.Parse(data, pb.ClusterFacts())
    except (json_format.ParseError, ValueError) as error:
        raise InvalidArgument(
            Reason.CONFIG_INVALID, f"it is no export of `citadel-cli trust export`: {error}"
        ) from error


def _is_bundle(data: bytes) -> bool:
    document = json.loads(data)
    return isinstance(document, dict) and "keys" in document


def _of_folder(folder: Path) -> ClusterFacts:
    found = next((names for names in _FOLDERS if (folder / names[0]).exists()), None)
    if found is None:
        names = " or ".join(names[0] for names in _FOLDERS)
        raise _unreadable(folder, f"it has no {names}")
    certificate, chain, root = found
    roots = _certificates(folder / root)
    above = _certificates(folder / chain) if chain is not None and (folder / chain).exists() else []
    issuing = list(
        dict.fromkeys([*_certificates(folder / certificate), *above])
    )  # a chain may begin with the first again
    return ClusterFacts(
        source=Source.FOLDER,
        trust_domain=_domain(issuing[0]),
        roots=tuple(roots),
        issuing=tuple(each for each in issuing if each not in roots),
        leaf_lifetime=timedelta(hours=1),
    )


def _domain(certificate: x509.Certificate) -> TrustDomain | None:
    """The trust domain that it says it is of, or the one that it may speak for."""
    names = extension_of(certificate, x509.SubjectAlternativeName)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []
    hosts = permitted_hosts(certificate)
    try:
        if len(uris) == 1:
            return SpiffeId.parse(uris[0]).trust_domain
        return TrustDomain.parse(hosts[0]) if len(hosts) == 1 else None
    except CitadelError:
        return None


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except UNREADABLE as error:
        raise _unreadable(path, f"it holds no certificates in PEM: {error}") from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    if len(data) > _MOST_BYTES:
        raise _unreadable(path, f"it has more than {_MOST_BYTES} bytes")
    return data


def _unreadable(path: Path, why: str) -> InvalidArgument:
    return InvalidArgument(Reason.CONFIG_INVALID, f"cannot read {path}: {why}")
