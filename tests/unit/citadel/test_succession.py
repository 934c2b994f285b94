"""What a root that goes says of those after it, and whom that leads to whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ca.authority.certificates import build_root
from ca.keys.kinds import KeyKind
from citadel._wire import bootstrap_pb2
from citadel.succession import Succession, heirs_of
from citadel.succession_wire import succession_to_wire, successions_from_wire
from tests.certificates import A_TEST, B_TEST, NOW, Signed, root
from tests.unit.ca.values import a_key

DAY = timedelta(days=1)
FIRST, SECOND, THIRD, STRANGER = (root(f"root {name}") for name in ("one", "two", "three", "of nobody"))


def word(of: Signed, *heirs: Signed, until: timedelta = 7 * DAY) -> Succession:
    assert isinstance(of.key, ec.EllipticCurvePrivateKey)
    certificates = [heir.certificate for heir in heirs]
    return Succession.signed(
        trust_domain=A_TEST, root=of.certificate, key=of.key, heirs=certificates, until=NOW + until
    )


def led_from(first: Signed, *said: Succession, after: timedelta = timedelta(0)) -> set[Signed]:
    found = heirs_of([first.certificate], said, trust_domain=A_TEST, now=NOW + after)
    return {each for each in (FIRST, SECOND, THIRD, STRANGER) if each.certificate in found}


def test_who_knows_a_root_is_led_to_its_heirs_and_to_theirs() -> None:
    assert led_from(FIRST, word(FIRST, SECOND)) == {SECOND}
    assert led_from(FIRST, word(SECOND, THIRD), word(FIRST, SECOND)) == {SECOND, THIRD}
    assert led_from(FIRST, word(FIRST, SECOND, THIRD)) == {SECOND, THIRD}
    assert led_from(SECOND, word(FIRST, SECOND)) == set(), "never back"
    assert led_from(FIRST, word(FIRST, SECOND), word(SECOND, FIRST)) == {SECOND}, "a circle ends"


BAD: dict[str, Callable[[Succession], Succession]] = {
    "another heir": lambda good: replace(good, heirs=(STRANGER.certificate,)),
    "one more heir": lambda good: replace(good, heirs=(*good.heirs, STRANGER.certificate)),
    "no heir": lambda good: replace(good, heirs=()),
    "a later end": lambda good: replace(good, until=good.until + DAY),
    "another trust domain": lambda good: replace(good, trust_domain=B_TEST),
    "the name of another root": lambda good: replace(good, signer=word(STRANGER).signer),
    "a signature of nothing": lambda good: replace(good, signature=b""),
    "a signature of another": lambda good: replace(good, signature=word(STRANGER, SECOND).signature),
    "the word of a stranger in the name of the root": lambda good: replace(
        word(STRANGER, STRANGER), signer=good.signer
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_word_that_was_changed_or_is_not_of_the_root_leads_nowhere(fault: str) -> None:
    good = word(FIRST, SECOND)
    assert led_from(FIRST, good) == {SECOND}
    assert led_from(FIRST, BAD[fault](good)) == set()


@pytest.mark.parametrize("kind", KeyKind)
def test_a_root_of_any_kind_of_key_has_its_word(kind: KeyKind) -> None:
    key = a_key(kind)
    own = build_root(trust_domain=A_TEST, key=key, now=NOW, lifetime=DAY, backdate=timedelta(0))
    said = Succession.signed(
        trust_domain=A_TEST, root=own, key=key, heirs=[SECOND.certificate], until=NOW + timedelta(hours=1)
    )
    assert said.is_word_of(own)
    assert not said.is_word_of(SECOND.certificate)
    assert not replace(said, heirs=(STRANGER.certificate,)).is_word_of(own)
    assert not replace(said, signature=b"").is_word_of(own)
    assert heirs_of([own], [said], trust_domain=A_TEST, now=NOW) == {SECOND.certificate}


def test_a_word_holds_until_its_end_and_no_longer() -> None:
    said = word(FIRST, SECOND, until=DAY)
    assert led_from(FIRST, said, after=DAY - timedelta(seconds=1)) == {SECOND}
    assert led_from(FIRST, said, after=DAY) == set()


def test_a_root_that_has_ended_vouches_for_nobody_and_is_nobodys_heir() -> None:
    ended = root("ended", not_before=NOW - 2 * DAY, not_after=NOW)
    assert led_from(ended, word(ended, SECOND)) == set()
    assert led_from(FIRST, word(FIRST, ended), word(ended, SECOND)) == set()


def test_on_the_wire_and_back() -> None:
    said = [word(FIRST, SECOND), word(SECOND, THIRD)]
    sent = [succession_to_wire(each) for each in said]
    assert list(successions_from_wire(A_TEST, sent)) == said
    broken = bootstrap_pb2.Succession(signer=b"x", heirs=[b"no certificate"], signature=b"y")
    assert list(successions_from_wire(A_TEST, [broken, *sent])) == said
