"""The authorities whose certificates let machines join: a file of the operator's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509

from citadel.certification_path import UNREADABLE
from citadel.errors import InvalidArgument, Reason

_MOST_BYTES: Final = 1 << 20


class AnchorFile:
    """PEM certificates of authorities. Read anew for each join, so that whoever is taken out is out at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Sequence[x509.Certificate]:
        """The authorities. Raises `InvalidArgument` (`config_invalid`). Blocks on the disk."""
        try:
            with self._path.open("rb") as file:
                content = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise self._bad(f"cannot be read: {error.strerror}") from error
        if len(content) > _MOST_BYTES:
            raise self._bad(f"is larger than {_MOST_BYTES} bytes")
        try:
            anchors = x509.load_pem_x509_certificates(content)
            are_authorities = all(_is_authority(anchor) for anchor in anchors)
        except UNREADABLE as error:
            raise self._bad("does not hold PEM certificates") from error
        if not are_authorities:
            # As an anchor, a machine's own certificate would let in whoever shows a copy of it and has its key.
            raise self._bad("holds a certificate that is not an authority's")
        return anchors

    def _bad(self, problem: str) -> InvalidArgument:
        return InvalidArgument(Reason.CONFIG_INVALID, f"joining.x509pop.ca_file {self._path} {problem}")


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
