"""The folder as it lies there: which files it must have, and how to read all of them as they were at one moment."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from citadel.config.files import read_secret_file, read_trusted_file
from citadel.errors import FailedPrecondition, InvalidArgument, Reason

_TRIES: Final = 5
_WRITABLE_BY_OTHERS: Final = 0o022
_VOLUME: Final = "..data"  # the link that the kubelet turns round when a Secret has changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What the files are called. Without `chain`, what stands between is in the file of the certificate."""

    certificate: str
    key: str
    roots: str
    chain: str | None


ISTIO: Final = Names(certificate="ca-cert.pem", key="ca-key.pem", roots="root-cert.pem", chain="cert-chain.pem")
SECRET: Final = Names(certificate="tls.crt", key="tls.key", roots="ca.crt", chain=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """All files, as they were at one moment."""

    folder: Path
    names: Names
    files: Mapping[str, bytes]

    def path(self, name: str) -> Path:
        """Where it lies, for people."""
        return self.folder / name


def read_folder(folder: Path) -> Content:
    """Read until two readings agree: whoever writes file after file is not done, and a Secret is swapped between two.

    Raises `FailedPrecondition` (`upstream_invalid`). Blocks on the disk.
    """
    content = _read_once(folder)
    for _ in range(_TRIES):
        again = _read_once(folder)
        if again == content:
            return content
        content = again
    raise invalid(folder, "changes all the time while it is read", fix="write the files elsewhere, and move them in")


def invalid(path: Path, problem: str, *, fix: str = "") -> FailedPrecondition:
    """That it cannot be an issuing authority here, because of this file."""
    return FailedPrecondition(Reason.UPSTREAM_INVALID, f"{path} {problem}", fix=fix)


def _read_once(folder: Path) -> Content:
    is_volume = _check_folder(folder)
    names = _names_in(folder)
    files = {}
    for name in filter(None, (names.certificate, names.chain, names.roots, names.key)):
        # Whoever can read the key is this authority. The modes in a volume are set by the kubelet, 0644 where nobody
        # says otherwise; but there is nobody else in its container.
        read = read_secret_file if name == names.key and not is_volume else read_trusted_file
        try:
            files[name] = read(folder / name)
        except InvalidArgument as error:
            raise FailedPrecondition(Reason.UPSTREAM_INVALID, error.message, fix=error.fix) from error
    return Content(folder=folder, names=names, files=files)


def _check_folder(folder: Path) -> bool:
    """Nobody else may exchange the files in it. Whether it is a volume of Kubernetes."""
    try:
        status = folder.stat()
    except OSError as error:
        raise invalid(folder, f"cannot be read: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise invalid(folder, "is not a folder")
    if status.st_uid not in (0, os.geteuid()):
        raise invalid(folder, f"belongs to uid {status.st_uid}, neither root nor uid {os.geteuid()} of this process")
    if status.st_mode & _WRITABLE_BY_OTHERS and not status.st_mode & stat.S_ISVTX:
        mode = stat.S_IMODE(status.st_mode)
        raise invalid(folder, f"has mode {mode:04o}: others can exchange what is in it", fix=f"chmod 0700 {folder}")
    return (folder / _VOLUME).is_symlink()


def _names_in(folder: Path) -> Names:
    found = [names for names in (ISTIO, SECRET) if any(os.path.lexists(folder / each) for each in _unlike(names))]
    if len(found) > 1:
        raise invalid(
            folder,
            f"holds both {ISTIO.certificate} and {SECRET.certificate}, and only one can be meant",
            fix="take the files of one of them away",
        )
    return found[0] if found else ISTIO


def _unlike(names: Names) -> tuple[str, str]:
    return names.certificate, names.key
