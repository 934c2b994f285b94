"""The key that an agent joins with, on disk from before the token is sent until the identity is saved.

The server gives a used token's answer again, but only for the key that it was used with. So neither a lost answer, nor
a crash, nor a full disk costs more than another try with the same join string.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm

from citadel.config.files import ensure_private_dir, read_secret_file, write_private
from citadel.errors import FailedPrecondition, Reason, Unavailable
from sds.keep.keys import PrivateKey, load_pem, new_key, to_pem

FILE_NAME: Final = "joining-key.pem"


class JoiningKey:
    """`joining-key.pem` in the agent's data folder: 0600 in a 0700 folder. Its methods block on the disk."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / FILE_NAME

    def take(self) -> PrivateKey:
        """The key of an earlier try, otherwise a fresh one; durable on return.

        Raises `Unavailable` (`store_unavailable`) when the disk refuses it, `InvalidArgument` (`file_unsafe`) when
        others can touch it, `FailedPrecondition` (`identity_corrupt`) when the file does not hold a key.
        """
        ensure_private_dir(self.path.parent)
        if self.path.exists():
            return self._load()
        key = new_key("ec-p256")
        try:
            write_private(self.path, to_pem(key))
        except OSError as error:
            raise Unavailable(
                Reason.STORE_UNAVAILABLE,
                f"cannot write {self.path}: {error.strerror}; the join token was not sent",
                fix="make data_dir writable, with room on its disk",
            ) from error
        return key

    def discard(self) -> None:
        """Forget the key: the identity that it belongs to is saved."""
        self.path.unlink(missing_ok=True)

    def _load(self) -> PrivateKey:
        try:
            return load_pem(read_secret_file(self.path))
        except (TypeError, ValueError, UnsupportedAlgorithm):
            # Without the cause: its message could show a part of the key.
            raise FailedPrecondition(
                Reason.IDENTITY_CORRUPT,
                f"{self.path} does not hold a private key",
                fix="remove it, and join with a new join string",
            ) from None
