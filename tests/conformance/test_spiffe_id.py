"""The lines ID-* of the checklist: what is a SPIFFE ID, and what is none."""

from __future__ import annotations

import pytest

from citadel.errors import CitadelError, InvalidArgument, Reason
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.svid import X509Svid, verify_x509_svid
from tests.certificates import A_TEST, B_TEST, NOW, WORKLOAD, bundle, leaf, root

DOMAIN, ID = Reason.TRUST_DOMAIN_MALFORMED, Reason.ID_MALFORMED
LONGEST_NAME = "d" * 255


def spec(line: str, *texts: str) -> list[object]:
    return [pytest.param(text, marks=pytest.mark.spec(line), id=f"{line}-{text[:40]!r}") for text in texts]


@pytest.mark.parametrize(
    "text",
    [
        *spec("ID-01", "spiffe://td/a"),
        *spec("ID-08", "spiffe://a_b.c-d", "spiffe://0123456789", "spiffe://abcdefghijklmnopqrstuvwxyz._-/x"),
        *spec("ID-10", *(f"spiffe://{name}/x" for name in ("1.2.3.4", "a..b", ".a", "a.", "-a", "a-", "_x", "a.b.c"))),
        *spec("ID-13", "spiffe://td/...", "spiffe://td/.a", "spiffe://td/..a", "spiffe://td/a.", "spiffe://td/a.."),
        *spec("ID-14", "spiffe://td", "spiffe://td/a"),
        *spec("ID-15", "spiffe://td/abcXYZ0189._-"),
        *spec("ID-16", "spiffe://td", "spiffe://td/a/b/c/d"),
        *spec("ID-19", "spiffe://td/" + "a" * (2048 - 12)),
        *spec("ID-21", f"spiffe://{LONGEST_NAME}/a"),
    ],
)
def test_an_id_is_taken_as_it_stands(text: str) -> None:
    assert str(SpiffeId.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(text, reason, marks=pytest.mark.spec(line), id=f"{line}-{text[:40]!r}")
        for line, reason, texts in (
            (
                "ID-01",
                ID,
                ("", "td/a", "http://td/a", "spiffe:/td/a", "spiffe:td/a", "//td/a", "sspiffe://td/a", " spiffe://td"),
            ),
            ("ID-01", ID, ("spiff\u00e9://td", "spiffe//td/a", "\nspiffe://td/a")),
            ("ID-02", DOMAIN, ("spiffe://", "spiffe:///", "spiffe:///path")),
            ("ID-03", ID, ("spiffe://td/a?x=1", "spiffe://td/a?")),
            ("ID-03", DOMAIN, ("spiffe://td?x", "spiffe://td?")),
            ("ID-04", ID, ("spiffe://td/a#f", "spiffe://td/a#")),
            ("ID-04", DOMAIN, ("spiffe://td#f", "spiffe://td#")),
            ("ID-05", DOMAIN, ("spiffe://u@td/a", "spiffe://u:p@td/a", "spiffe://@td/a")),
            ("ID-06", DOMAIN, ("spiffe://td:8080/a", "spiffe://1.2.3.4:1/a", "spiffe://td:/a", "spiffe://td:80")),
            (
                "ID-08",
                DOMAIN,
                ("spiffe://t$d/a", "spiffe://t d/a", "spiffe://t\u00e9/a", "spiffe://t\0/a", "spiffe://[::1]/a"),
            ),
            # Digits and letters of other scripts, and the newline that `match(...$)` would let pass.
            ("ID-08", DOMAIN, ("spiffe://t\u0661/a", "spiffe://t\u212a", "spiffe://td\n", "spiffe://t\\d/a")),
            ("ID-09", DOMAIN, ("spiffe://ex%61mple/a", "spiffe://ex%2eorg/a")),
            ("ID-11", ID, ("spiffe://td/%61pi", "spiffe://td/a%2Fb", "spiffe://td/%F0%9F%A4%AF")),
            ("ID-12", ID, ("spiffe://td//", "spiffe://td//a", "spiffe://td/a//b")),
            ("ID-13", ID, ("spiffe://td/.", "spiffe://td/..", "spiffe://td/a/../b", "spiffe://td/a/./b")),
            ("ID-14", ID, ("spiffe://td/", "spiffe://td/a/")),
            (
                "ID-15",
                ID,
                tuple(f"spiffe://td/{path}" for path in ("a:b", "a@b", "a;b", "a b", "a~b", "a*", "a+b", "\u00e9")),
            ),
            ("ID-15", ID, ("spiffe://td/a\n", "spiffe://td/\u0661", "spiffe://td/a\\b", "spiffe://td/a\0")),
            # The decision on A1: refused, not folded.
            ("ID-18", DOMAIN, ("spiffe://TD/a", "spiffe://Example.org/a")),
            ("ID-18", ID, ("SPIFFE://td/a", "Spiffe://td/a")),
            ("ID-20", ID, ("spiffe://td/" + "a" * (2049 - 12),)),
            ("ID-21", DOMAIN, (f"spiffe://{LONGEST_NAME}d/a",)),
        )
        for text in texts
    ],
)
def test_what_is_no_id_is_refused(text: str, reason: Reason) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        SpiffeId.parse(text)
    assert refusal.value.reason == reason


@pytest.mark.parametrize(
    "name", ["", "TD", "td/", "td/a", "a b", "td\n", "spiffe://", "spiffe://td/", "spiffe://td/a", "http://td"]
)
@pytest.mark.spec("ID-02", "ID-08")
def test_what_is_no_trust_domain_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        TrustDomain.parse(name)
    assert refusal.value.reason == DOMAIN


@pytest.mark.spec("ID-21")
def test_the_longest_name_of_a_trust_domain() -> None:
    assert TrustDomain.parse(LONGEST_NAME).name == LONGEST_NAME
    with pytest.raises(InvalidArgument):
        TrustDomain.parse(LONGEST_NAME + "d")


@pytest.mark.spec("ID-17")
def test_paths_that_differ_in_case_are_different_ids() -> None:
    assert SpiffeId.parse("spiffe://td/A") != SpiffeId.parse("spiffe://td/a")


@pytest.mark.spec("ID-17")
def test_a_certificate_keeps_the_case_of_its_path() -> None:
    upper = X509Svid.from_der([leaf(root(), "spiffe://a.test/A").der])
    assert upper.spiffe_id == SpiffeId.parse("spiffe://a.test/A")
    assert upper.spiffe_id != SpiffeId.parse("spiffe://a.test/a")


@pytest.mark.spec("ID-19", "ID-20")
def test_the_longest_id_works_in_a_certificate_and_a_longer_one_does_not() -> None:
    top, longest = root(), "spiffe://a.test/" + "a" * (2048 - 16)
    assert len(longest) == 2048
    assert str(verify_x509_svid([leaf(top, longest).der], {A_TEST: bundle(top)}, NOW).spiffe_id) == longest
    with pytest.raises(InvalidArgument, match="longer than 2048"):
        X509Svid.from_der([leaf(top, longest + "a").der])


@pytest.mark.spec("ID-23")
def test_the_id_of_a_trust_domain_has_no_path() -> None:
    assert str(TrustDomain("example.org").id) == "spiffe://example.org"


@pytest.mark.spec("ID-25")
@pytest.mark.parametrize("document", [b"eyJhbGciOiJFUzI1NiJ9.e30.AAAA", b"spiffe://a.test/workload", b"", b"\x30\x00"])
def test_what_is_no_certificate_is_no_x509_svid(document: bytes) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        X509Svid.from_der([document])
    assert refusal.value.reason == Reason.SVID_MALFORMED


@pytest.mark.spec("ID-26")
@pytest.mark.invariant(7)
def test_a_root_never_vouches_for_an_id_of_another_trust_domain() -> None:
    of_a, of_b = root(), root("root b.test", uri="spiffe://b.test")
    bundles = {A_TEST: bundle(of_a), B_TEST: bundle(of_b, trust_domain=B_TEST)}
    assert str(verify_x509_svid([leaf(of_a).der], bundles, NOW).spiffe_id) == WORKLOAD
    with pytest.raises(CitadelError) as refusal:
        verify_x509_svid([leaf(of_b, WORKLOAD).der], bundles, NOW)
    assert refusal.value.reason == Reason.SVID_UNTRUSTED
