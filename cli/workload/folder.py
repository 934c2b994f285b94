"""A folder in which programs find their identity as files, always whole: never a key beside another's certificate.

    DIR/current -> svid-…/    the set that holds; a symbolic link, switched in one step
    DIR/svid.pem              the certificate with its intermediates; with key.pem its key, bundle.pem the roots of its
                              domain, and federated/NAME.pem those of others, links into `current`

Every set is a folder of its own that is never changed again. Who opens `current` once and reads below it sees one set;
the set before stays until the one after comes, for those who are reading it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Self

from citadel.bundle import TrustBundle
from citadel.config.files import ensure_private_dir, write_private
from citadel.errors import FailedPrecondition, InvalidArgument, Reason, Unavailable
from citadel.folder_lock import folder_lock
from citadel.spiffe import TrustDomain
from citadel.x509_context import WorkloadSvid, X509Context

_CURRENT: Final = "current"
_FEDERATED: Final = "federated"
_SET_PREFIX: Final = "svid-"
_MAX_FILE_NAME: Final = 255


class SvidFolder:
    """A folder of mode 0700 with files of mode 0600. These calls block on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    @contextmanager
    def held(cls, path: Path) -> Iterator[Self]:
        """The folder, for this process alone.

        Raises:
            InvalidArgument: `file_unsafe` where others can enter it, or it holds something else under our names.
            FailedPrecondition: `data_dir_in_use` where another process writes there.
        """
        ensure_private_dir(path)
        for name in (_CURRENT, *_file_names()):
            if (path / name).exists() and not (path / name).is_symlink():
                raise InvalidArgument(
                    Reason.FILE_UNSAFE, f"{path / name} is not a link that was made here", fix="choose another folder"
                )
        with ExitStack() as stack:
            try:
                stack.enter_context(folder_lock(path))
            except FailedPrecondition as error:
                raise FailedPrecondition(
                    error.reason, f"another process writes SVIDs to {path}", fix="stop it, or choose another folder"
                ) from error
            except OSError as error:
                raise _refused_by_disk(path, error) from error
            yield cls(path)

    def write(self, svid: WorkloadSvid, context: X509Context) -> None:
        """Put a new set in place of the old one, durable on return.

        Raises:
            Unavailable: `store_unavailable` when the disk refuses; the old set is then untouched.
        """
        try:
            fresh = Path(tempfile.mkdtemp(prefix=_SET_PREFIX, dir=self._path))  # mode 0700
            try:
                _fill(fresh, svid, context.bundles)
                before = self._switch_to(fresh)
            except BaseException:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
            self._tidy(keep={fresh.name, before})
        except OSError as error:
            raise _refused_by_disk(self._path, error) from error

    def _switch_to(self, fresh: Path) -> str:
        """Point `current` at `fresh`. The name of the set before, empty where there was none."""
        current = self._path / _CURRENT
        before = current.readlink().name if current.is_symlink() else ""
        _link(current, Path(fresh.name))
        for name in _file_names():
            if not (self._path / name).is_symlink():
                _link(self._path / name, Path(_CURRENT, name))
        return before

    def _tidy(self, *, keep: set[str]) -> None:
        for path in self._path.glob(f"{_SET_PREFIX}*"):
            if path.name not in keep:
                shutil.rmtree(path, ignore_errors=True)


def file_name(trust_domain: TrustDomain) -> str:
    """The file of a foreign bundle; empty for a domain whose name is too long for one."""
    name = f"{trust_domain.name}.pem"
    return name if len(name) <= _MAX_FILE_NAME else ""


def _fill(folder: Path, svid: WorkloadSvid, bundles: Mapping[TrustDomain, TrustBundle]) -> None:
    own = svid.svid.spiffe_id.trust_domain
    (folder / _FEDERATED).mkdir(mode=0o700)
    write_private(folder / "svid.pem", svid.svid.chain_pem)
    write_private(folder / "key.pem", svid.private_key_pem)
    write_private(folder / "bundle.pem", bundles[own].to_pem())
    for trust_domain, bundle in bundles.items():
        # One name that no file can have takes nothing from the others (invariant 8).
        if trust_domain != own and (name := file_name(trust_domain)):
            write_private(folder / _FEDERATED / name, bundle.to_pem())


def _refused_by_disk(path: Path, error: OSError) -> Unavailable:
    return Unavailable(Reason.STORE_UNAVAILABLE, f"cannot write to {path}: {error.strerror}", fix="look at the disk")


def _file_names() -> tuple[str, ...]:
    return ("svid.pem", "key.pem", "bundle.pem", _FEDERATED)


def _link(path: Path, target: Path) -> None:
    """Make or switch a symbolic link in one step."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)  # of one that was killed
    temporary.symlink_to(target)
    temporary.replace(path)
