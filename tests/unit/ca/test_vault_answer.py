"""What a PKI engine is asked for, and which of its answers are taken: rules over certificates, with no Vault."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ca.upstream.vault.answer import Term, by_parameters, checked_answer, longest_end, shortened, term_of, warnings_of
from ca.upstream.vault.engine import Issued
from ca.upstream.vault.offer import Line
from citadel.errors import FailedPrecondition, Reason
from tests.certificates import A_TEST, NOW, Signed, intermediate, key_usage, permitted, root
from tests.csrs import csr

_WEEK = timedelta(days=7)
_KEY = ec.generate_private_key(ec.SECP256R1())
_TOP = root("first", lifetime=timedelta(days=365))
_LINE = Line(issuer_id="id-first", chain=(), root=_TOP.certificate)
_TERM = Term(begins=NOW - timedelta(seconds=10), now=NOW, ends=NOW + _WEEK)


def _checked(signed: Signed | str, *, line: Line = _LINE, term: Term = _TERM, constrained: bool = False) -> Any:
    text = signed if isinstance(signed, str) else signed.certificate.public_bytes(Encoding.PEM).decode()
    return checked_answer(
        Issued(certificate=text, warnings=()),
        line,
        term,
        public_key=_KEY.public_key(),
        trust_domain=A_TEST,
        is_constrained=constrained,
    )


def _signed(above: Signed = _TOP, **changes: Any) -> Signed:
    return intermediate(above, **{"key": _KEY, "lifetime": _WEEK} | changes)


def test_what_was_asked_for_is_taken_with_what_stands_above_it() -> None:
    middle = intermediate(_TOP, "middle", path_length=1, lifetime=timedelta(days=30))
    line = Line(issuer_id="id-middle", chain=(middle.certificate,), root=_TOP.certificate)
    signed = _signed(middle)
    answer = _checked(signed, line=line)
    assert answer.chain == (signed.certificate, middle.certificate)
    assert answer.root == _TOP.certificate


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("junk", "cannot be read"),
        (_signed(key=ec.generate_private_key(ec.SECP256R1())), "another key"),
        (_signed(path_length=None), "path length None"),
        (_signed(path_length=1), "path length 1"),
        (_signed(constraints=None), "no authority's"),
        (_signed(usage=key_usage("key_cert_sign")), "may not sign certificates and revocation lists"),
        (_signed(uri=None), "of no trust domain"),
        (_signed(uri="spiffe://b.test"), "of spiffe://b.test"),
        (_signed(extra=(permitted("b.test"),)), "may not sign for a.test"),
        (_signed(root("first")), "does not vouch for"),
        (_signed(lifetime=timedelta(days=8)), "later than it was asked for"),
        (_signed(not_before=NOW + timedelta(seconds=1)), "the clocks differ"),
    ],
    ids=[
        "junk",
        "another key",
        "no path length",
        "a longer path",
        "a leaf",
        "no lists",
        "no trust domain",
        "another trust domain",
        "constrained elsewhere",
        "another root",
        "too long",
        "not begun",
    ],
)
def test_what_was_not_asked_for_is_refused(answer: Signed | str, words: str) -> None:
    with pytest.raises(FailedPrecondition, match=words) as refused:
        _checked(answer)
    assert refused.value.reason is Reason.UPSTREAM_INVALID
    assert refused.value.fix


def test_constraints_that_were_asked_for_must_be_there() -> None:
    assert _checked(_signed(extra=(permitted("a.test"),)), constrained=True)
    for odd in (_signed(), _signed(extra=(permitted("a.test", "b.test"),))):
        with pytest.raises(FailedPrecondition, match=r"not constrained to a\.test") as refused:
            _checked(odd, constrained=True)
        assert "upstream.vault.constrained" in refused.value.fix


def test_nothing_outlives_what_signed_it() -> None:
    short = root("short", lifetime=timedelta(minutes=10))
    line = Line(issuer_id="id", chain=(), root=short.certificate)
    with pytest.raises(FailedPrecondition, match="what signed it ends before"):
        _checked(_signed(short, lifetime=timedelta(minutes=10, seconds=1)), line=line)


@pytest.mark.parametrize(
    ("left", "asked", "back"),
    [
        (timedelta(days=365), "604800s", "300s"),
        (timedelta(days=7), f"{604_800 - 300}s", "300s"),  # clocks may differ by five minutes
        (timedelta(minutes=10), "540s", "54s"),  # and by a tenth of what is left
    ],
)
def test_begin_and_end_have_a_margin_for_clocks(left: timedelta, asked: str, back: str) -> None:
    short = root("short", not_after=NOW + left)
    line = Line(issuer_id="id", chain=(), root=short.certificate)
    term = term_of(line, not_before=NOW - timedelta(seconds=10), not_after=NOW + _WEEK, now=NOW)
    assert term.parameters() == {"ttl": asked, "not_before_duration": back, "max_path_length": 0}


def test_no_term_is_so_short_that_the_engine_would_take_its_default() -> None:
    short = root("short", not_after=NOW + timedelta(seconds=1))
    line = Line(issuer_id="id", chain=(), root=short.certificate)
    assert longest_end(line, NOW) < NOW + timedelta(seconds=1)
    with pytest.raises(FailedPrecondition, match="nothing more comes from it"):
        term_of(line, not_before=NOW, not_after=NOW + _WEEK, now=NOW).parameters()


_AIA = "This mount hasn't configured any authority information access (AIA) fields; this may make it harder"
_ZERO = "Max path length of the signed certificate is zero. This certificate cannot be used to issue"


def test_only_warnings_that_mean_something_are_told() -> None:
    too_long = 'TTL "168h0m0s" is longer than permitted maxTTL "2h0m0s", so maxTTL is being used'
    issued = Issued(certificate="", warnings=(_AIA, _ZERO, "something odd", too_long))
    assert warnings_of(issued) == ("Vault warns: something odd",)


@pytest.mark.parametrize("behind", [timedelta(0), timedelta(minutes=10), timedelta(minutes=-4)], ids=str)
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (_WEEK, ""),
        (timedelta(hours=2), "is for 2h, not 7d as authorities.issuer_lifetime says: see max_lease_ttl of its mount"),
    ],
    ids=["as wanted", "shortened"],
)
def test_an_authority_that_vault_has_shortened_is_told_whatever_the_clocks(
    behind: timedelta, given: timedelta, words: str
) -> None:
    by_vault = NOW - behind
    signed = _signed(not_before=by_vault - timedelta(minutes=5), not_after=by_vault + given)
    assert shortened(signed.certificate, _LINE, _WEEK).removeprefix("the authority ") == words


def test_an_authority_that_its_issuer_binds_is_told() -> None:
    short = root("short", not_after=NOW + timedelta(minutes=10))
    line = Line(issuer_id="id", chain=(), root=short.certificate)
    term = term_of(line, not_before=NOW, not_after=NOW + _WEEK, now=NOW)
    said = shortened(_signed(short, not_before=term.begins, not_after=term.ends).certificate, line, _WEEK)
    assert said.startswith("the authority is for 9m")
    assert "not 7d as authorities.issuer_lifetime says: what signs in Vault ends at " in said


def test_of_the_request_of_a_child_its_key_alone_counts() -> None:
    asked: dict[str, Any] = dict(by_parameters(csr(_KEY, names=("spiffe://b.test",)), A_TEST))
    assert "use_csr_values" not in asked
    assert asked["uri_sans"] == "spiffe://a.test"
    assert x509.load_pem_x509_csr(asked["csr"].encode()).public_key() == _KEY.public_key()
    assert asked["serial_number"] != by_parameters(csr(_KEY), A_TEST)["serial_number"]
