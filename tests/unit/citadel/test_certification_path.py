"""What a stranger's chain leaves behind in OpenSSL is nothing to whom comes next."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID

from citadel.certification_path import NoPathError, find_path
from tests.certificates import NOW, leaf, permitted, root

NO_UTF8 = b"\xff\xfe"


def test_a_name_that_is_no_text_brings_down_nobody_who_comes_next() -> None:
    """The list of errors belongs to the thread, and `cryptography` panics at a text in it that is no UTF-8."""
    constrained = root(extra=[permitted("a.test")])
    name = b"\x30\x04\x86\x02" + NO_UTF8  # the URI of an alternative name
    stranger = leaf(constrained, names=x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, name))
    with pytest.raises(NoPathError):
        find_path(stranger.certificate, [], [constrained.certificate], now=NOW)
    with pytest.raises(InvalidSignature):
        ec.generate_private_key(ec.SECP256R1()).public_key().verify(b"none", b"message", ec.ECDSA(hashes.SHA256()))
