"""What must hold of every text that is parsed as a SPIFFE ID."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from citadel.errors import CitadelError
from citadel.spiffe import SpiffeId, TrustDomain

names = st.text("abcdefghijklmnopqrstuvwxyz0123456789._-", min_size=1, max_size=255)
segments = st.text(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", min_size=1, max_size=100
).filter(lambda segment: segment not in {".", ".."})
# Texts near the border are what finds mistakes; wholly arbitrary ones hardly get past the scheme.
near_ids = st.builds(
    "spiffe://{}{}".format, st.text(max_size=20), st.from_regex(r"(/[a.%\n?#@:~A]{0,4}){0,4}", fullmatch=True)
)


@given(names, st.lists(segments, max_size=10))
def test_a_good_id_is_its_own_text(name: str, path: list[str]) -> None:
    spiffe_id = TrustDomain(name).member(*path)
    assert SpiffeId.parse(str(spiffe_id)) == spiffe_id
    assert str(spiffe_id) == "/".join(["spiffe:/", name, *path])
    assert spiffe_id.is_member_of(TrustDomain(name))


@given(st.one_of(st.text(), near_ids))
@example("spiffe://td/a\n")
@example("spiffe://\ud800/a")
def test_any_text_is_an_id_in_its_one_form_or_refused(text: str) -> None:
    try:
        spiffe_id = SpiffeId.parse(text)
    except CitadelError:
        return
    assert str(spiffe_id) == text
    assert text.isascii()


@given(st.text())
def test_any_text_is_a_trust_domain_or_refused(text: str) -> None:
    try:
        domain = TrustDomain.parse(text)
    except CitadelError:
        return
    assert domain.name == text
    assert domain.id == SpiffeId.parse(f"spiffe://{text}")


@pytest.mark.parametrize("text", ["a.test", "spiffe://a.test"])
def test_a_trust_domain_is_parsed_from_its_name_or_its_id(text: str) -> None:
    assert TrustDomain.parse(text) == TrustDomain("a.test")


def test_a_path_must_start_with_a_slash() -> None:
    with pytest.raises(CitadelError, match="does not start with '/'"):
        SpiffeId(TrustDomain("a.test"), "a")
