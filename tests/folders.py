"""Folders with the authority of a cluster, as `citadel-cli root sign` makes them and as others do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ca.upstream.files.folder import ISTIO, Names
from tests import certificates
from tests.certificates import PrivateKey, Signed

_YEAR = timedelta(days=365)


def a_root(name: str = "root", **changes: object) -> Signed:
    """A root that names no trust domain."""
    return certificates.root(name, **{"uri": None, "lifetime": 10 * _YEAR, **changes})  # type: ignore[arg-type] # changes to a profile


def an_issuer(root: Signed, name: str = "issuer", **changes: object) -> Signed:
    """An authority of a cluster of `a.test`."""
    return certificates.intermediate(root, name, **{"lifetime": _YEAR, **changes})  # type: ignore[arg-type] # as above


def key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def contents(
    issuer: Signed, root: Signed, *, between: Sequence[Signed] = (), also: Sequence[Signed] = (), names: Names = ISTIO
) -> dict[str, bytes]:
    """The files, by their names."""
    above, roots = b"".join(each.pem for each in between), b"".join(each.pem for each in (root, *also))
    files = {names.certificate: issuer.pem, names.key: key_pem(issuer.key), names.roots: roots}
    if names.chain is not None:
        return files | {names.chain: issuer.pem + above + root.pem}
    return files | {names.certificate: issuer.pem + above}


def put(folder: Path, files: dict[str, bytes]) -> Path:
    """Write them, each whole at once, and take away what else was there."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, content in files.items():
        new = folder / f".{name}.new"
        new.write_bytes(content)
        new.chmod(0o600)
        new.rename(folder / name)
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    return folder
