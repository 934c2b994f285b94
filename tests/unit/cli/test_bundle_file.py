"""A foreign bundle in a file, as its owner hands it over."""

from __future__ import annotations

from pathlib import Path

import pytest

from citadel.errors import CitadelError, InvalidArgument, NotFound, Reason
from cli.admin.bundle_file import read_bundle
from tests.certificates import B_TEST, bundle, leaf, root

ONE, TWO = root("one", "spiffe://b.test"), root("two", "spiffe://b.test")
OF_B = bundle(ONE, TWO, trust_domain=B_TEST, sequence=3)


@pytest.mark.spec("FED-26")
def test_it_may_be_spiffes_json_or_pem(tmp_path: Path) -> None:
    file = tmp_path / "b"
    file.write_bytes(OF_B.to_json())
    assert read_bundle(file, B_TEST) == OF_B
    file.write_bytes(b"# of B\n" + OF_B.to_pem())
    assert read_bundle(file, B_TEST) == bundle(ONE, TWO, trust_domain=B_TEST)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"hello",
        ONE.pem[:-40],
        ONE.pem.replace(b"MII", b"AAA"),
        leaf(ONE, "spiffe://b.test/x").pem,  # would be its own trust anchor
    ],
)
def test_what_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "b"
    file.write_bytes(content)
    with pytest.raises(CitadelError) as refused:
        read_bundle(file, B_TEST)
    assert refused.value.reason is Reason.BUNDLE_MALFORMED


def test_a_file_that_is_not_there_is_no_bundle_that_breaks_a_rule(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as refused:
        read_bundle(tmp_path / "b", B_TEST)
    assert refused.value.reason is Reason.FILE_UNSAFE
    with pytest.raises(InvalidArgument) as unread:
        read_bundle(tmp_path, B_TEST)  # a folder
    assert unread.value.reason is Reason.BUNDLE_MALFORMED
