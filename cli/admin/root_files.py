"""The folders that `citadel-cli root` reads and writes: an offline root, and the authority of a cluster."""

from __future__ import annotations

import getpass
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from ca.authority.offline import OfflineRoot
from ca.authority.soundness import KeyUnusableError, read_authority_key, root_faults
from ca.keys.kinds import AuthorityKey
from citadel.certificate_chain import read_chain
from citadel.clock import Clock
from citadel.config.files import (
    append_private,
    ensure_private_dir,
    make_private_folder,
    read_public_file,
    read_secret_file,
)
from citadel.errors import AlreadyExists, CitadelError, InvalidArgument, NotFound, Reason

ROOT_CERTIFICATE: Final = "root-cert.pem"  # these names are Istio's
ROOT_KEY: Final = "root-key.pem"
SIGNED: Final = "signed.jsonl"
_ENCRYPTED: Final = b"ENCRYPTED"
SHORTEST_PASSPHRASE: Final = 12  # a file of PEM can be tried offline, many thousand times a second


def check_free(folder: Path) -> None:
    """Before anything is signed. Raises `AlreadyExists` (`file_unsafe`)."""
    if folder.exists() or folder.is_symlink():
        raise AlreadyExists(
            Reason.FILE_UNSAFE,
            f"{folder} exists already, and what may be a key is never overwritten",
            fix="name another folder with --out, or move that one away",
        )


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """A new folder with these files: all of it or nothing."""
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_private_folder(folder, files)
    except FileExistsError:
        check_free(folder)
        raise
    except OSError as error:
        raise _unwritable(folder, error) from error


def key_pem(key: AuthorityKey, passphrase: bytes | None = None) -> bytes:
    """PKCS#8, encrypted where there is a passphrase."""
    encryption = BestAvailableEncryption(passphrase) if passphrase is not None else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def pem(*certificates: x509.Certificate) -> bytes:
    """One after the other."""
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def read_root(folder: Path, *, passphrase_file: Path | None, clock: Clock) -> OfflineRoot:
    """The root that lies in a folder; asks for its passphrase where one is needed and no file holds it."""
    if not folder.is_dir():
        raise NotFound(
            Reason.FILE_UNSAFE, f"there is no folder {folder}", fix="make a root with `citadel-cli root init --out DIR`"
        )
    ensure_private_dir(folder)
    certificates = read_chain(read_public_file(folder / ROOT_CERTIFICATE))
    if len(certificates) != 1:
        raise InvalidArgument(
            Reason.AUTHORITY_REFUSED,
            f"{folder / ROOT_CERTIFICATE} holds {len(certificates)} certificates",
            fix="leave only that of the root whose key is beside it; give further roots with --trust",
        )
    content = read_secret_file(folder / ROOT_KEY)
    passphrase = _passphrase_for(folder / ROOT_KEY, passphrase_file) if _ENCRYPTED in content else None
    try:
        key = read_authority_key(content, passphrase=passphrase)
    except KeyUnusableError as error:
        raise InvalidArgument(Reason.AUTHORITY_REFUSED, f"the key in {folder / ROOT_KEY} {error}") from error
    return OfflineRoot.taken(certificates[0], key, now=clock.now())


def read_further_roots(files: Sequence[Path], *, clock: Clock) -> list[x509.Certificate]:
    """The roots in these files, to be trusted beside the one that signs."""
    roots = []
    for file in files:
        for root in read_chain(read_public_file(file)):
            for fault in root_faults(root, now=clock.now()):
                raise InvalidArgument(Reason.AUTHORITY_REFUSED, f"the root in {file} {fault}")
            roots.append(root)
    return roots


def new_passphrase(file: Path | None, *, is_asked: bool) -> bytes | None:
    """What the key is to be encrypted with, from a file or from the terminal; None where it is not."""
    if file is None and not is_asked:
        return None
    passphrase = _read_passphrase(file) if file is not None else _asked("Passphrase for the new root", is_new=True)
    if len(passphrase) < SHORTEST_PASSPHRASE:
        raise InvalidArgument(
            Reason.AUTHORITY_REFUSED,
            f"the passphrase has fewer than {SHORTEST_PASSPHRASE} bytes",
            fix="take a longer one, such as that of `openssl rand -base64 24`",
        )
    return passphrase


def note_signed(folder: Path, line: Mapping[str, Any]) -> None:
    """Record beside the root what it signs, before anybody has it."""
    try:
        append_private(folder / SIGNED, json.dumps(line))
    except OSError as error:
        raise _unwritable(folder / SIGNED, error) from error


def signed_so_far(folder: Path) -> list[dict[str, Any]]:
    """What was recorded; nothing where nothing was."""
    if not (folder / SIGNED).exists():
        return []
    try:
        return [json.loads(line) for line in read_public_file(folder / SIGNED).splitlines()]
    except ValueError as error:
        raise InvalidArgument(Reason.FILE_UNSAFE, f"{folder / SIGNED} holds a line that is no JSON") from error


def _passphrase_for(key: Path, file: Path | None) -> bytes:
    if file is not None:
        return _read_passphrase(file)
    if not sys.stdin.isatty():
        raise InvalidArgument(
            Reason.AUTHORITY_REFUSED, f"{key} is encrypted", fix="name a file with its passphrase: --passphrase-file"
        )
    return _asked(f"Passphrase of {key}", is_new=False)


def _asked(what: str, *, is_new: bool) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)  # it would be shown as it is typed
        try:
            return str(click.prompt(what, hide_input=True, confirmation_prompt=is_new, err=True)).encode()
        except getpass.GetPassWarning as error:
            raise InvalidArgument(
                Reason.AUTHORITY_REFUSED,
                "there is no terminal to ask for a passphrase at",
                fix="name a file with it: --passphrase-file",
            ) from error


def _read_passphrase(file: Path) -> bytes:
    return read_secret_file(file).removesuffix(b"\n")


def _unwritable(path: Path, error: OSError) -> CitadelError:
    return InvalidArgument(
        Reason.FILE_UNSAFE, f"cannot write {path}: {error.strerror or error}", fix="choose another folder"
    )
