"""Foreign bundles: which may be in force, and that they are durable before anybody sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ca.audit.model import Act
from ca.federation.known import ForeignBundles, KnownBundle, Source
from ca.federation.model import Federation
from ca.federation.rules import check_federation, check_order, check_owner
from ca.federation.settings import Profile
from citadel.errors import CitadelError, Reason, Unavailable
from citadel.spiffe import SpiffeId, TrustDomain
from tests.certificates import A_TEST, B_TEST, bundle, root
from tests.unit.ca.values import ADMINISTRATOR, NOW

LATER = NOW + timedelta(minutes=5)
ONE, TWO = root("one", "spiffe://b.test"), root("two", "spiffe://b.test")
OF_B = bundle(ONE, trust_domain=B_TEST, sequence=2**53 + 1, refresh_hint=timedelta(seconds=60))
ACT = Act(actor=ADMINISTRATOR, what="bundle.set", target="b.test", why="they called")
FEDERATION = Federation(
    trust_domain=B_TEST,
    endpoint_url="https://bundles.b.test:8443/bundle?x=1",
    profile=Profile.HTTPS_SPIFFE,
    endpoint_id=SpiffeId.parse("spiffe://b.test/server"),
    created_at=NOW,
)


class Store:
    """Keeps nothing, and says what it was asked; `down` lets it refuse."""

    def __init__(self, *known: KnownBundle) -> None:
        self.known = known
        self.asked: list[tuple[object, ...]] = []
        self.down = False

    async def load(self) -> Sequence[KnownBundle]:
        return self.known

    async def put(self, known: KnownBundle, act: Act | None, *, at: object, federation: Federation | None) -> None:
        assert federation is None
        self._ask("put", known.bundle.sequence, act, at)

    async def remove(self, trust_domain: TrustDomain, act: Act | None, *, at: object) -> None:
        self._ask("remove", trust_domain, act, at)

    def _ask(self, *what: object) -> None:
        if self.down:
            raise Unavailable(Reason.STORE_UNAVAILABLE, "the disk is full")
        self.asked.append(what)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def bundles(store: Store) -> ForeignBundles:
    return ForeignBundles(trust_domain=A_TEST, store=store)


def sequence(number: int | None, *roots: Any) -> Any:
    return bundle(*(roots or (ONE,)), trust_domain=B_TEST, sequence=number)


@pytest.mark.spec("FED-33", "BUNDLE-06")
@pytest.mark.parametrize(
    ("known", "offered", "refused_for"),
    [
        (5, 4, Reason.BUNDLE_OLDER),
        (5, 0, Reason.BUNDLE_OLDER),
        (2**63, 2**63 - 1, Reason.BUNDLE_OLDER),
        (5, 5, None),
        (5, 6, None),
        (5, None, None),  # the most recently fetched
        (None, 4, None),
        (None, None, None),
    ],
)
def test_an_older_sequence_takes_no_place(known: int | None, offered: int | None, refused_for: Reason | None) -> None:
    if refused_for is None:
        check_order(sequence(known), sequence(offered, TWO))
        return
    with pytest.raises(CitadelError) as refused:
        check_order(sequence(known), sequence(offered, TWO))
    assert refused.value.reason is refused_for


def test_the_first_bundle_is_older_than_none() -> None:
    check_order(None, sequence(0))


@pytest.mark.invariant(7)
@pytest.mark.parametrize(
    ("names", "refused_for", "words"),
    [
        (("spiffe://b.test",), None, ""),
        ((None,), None, ""),  # over several trust domains, on purpose
        (("SPIFFE://B.test",), None, ""),
        (("spiffe://a.test",), Reason.FEDERATION_OWN_DOMAIN, "the bundle of a.test, your own, not that of b.test"),
        (("spiffe://b.test", "spiffe://a.test"), Reason.FEDERATION_OWN_DOMAIN, "of a.test, your own"),
        (("spiffe://c.test",), Reason.BUNDLE_MALFORMED, "a bundle of c.test, not of b.test"),
        (("spiffe://c.test/b.test",), Reason.BUNDLE_MALFORMED, "a bundle of c.test"),
        (("https://c.test",), None, ""),  # says nothing of a trust domain
    ],
)
def test_a_root_that_says_it_is_anothers_is_not_taken(
    names: tuple[str | None, ...], refused_for: Reason | None, words: str
) -> None:
    roots = (root(f"root {number}", uri) for number, uri in enumerate(names))
    offered = bundle(*roots, trust_domain=B_TEST)
    if refused_for is None:
        check_owner(A_TEST, offered)
        return
    with pytest.raises(CitadelError, match=words) as refused:
        check_owner(A_TEST, offered)
    assert refused.value.reason is refused_for


@pytest.mark.spec("FED-05", "FED-07", "FED-08", "FED-09", "FED-24")
@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"trust_domain": A_TEST}, Reason.FEDERATION_OWN_DOMAIN, "own trust domain"),
        ({"endpoint_url": "http://b.test/"}, Reason.FEDERATION_MALFORMED, "is not https"),
        ({"endpoint_url": "https://me:secret@b.test/"}, Reason.FEDERATION_MALFORMED, "a user or a password"),
        ({"endpoint_url": "https://@b.test/"}, Reason.FEDERATION_MALFORMED, "a user or a password"),
        ({"endpoint_url": "https:///bundle"}, Reason.FEDERATION_MALFORMED, "names no host"),
        ({"endpoint_url": "https://b.test:0/"}, Reason.FEDERATION_MALFORMED, "names no host"),
        ({"endpoint_url": "https://b.test:99999/"}, Reason.FEDERATION_MALFORMED, "is no URL"),
        ({"endpoint_url": "https://[b.test/"}, Reason.FEDERATION_MALFORMED, "is no URL"),
        ({"endpoint_url": "b.test/bundle"}, Reason.FEDERATION_MALFORMED, "is not https"),
        ({"endpoint_url": ""}, Reason.FEDERATION_MALFORMED, "is not https"),
        ({"endpoint_url": "https://b.test/\n"}, Reason.FEDERATION_MALFORMED, "no plain URL"),
        ({"endpoint_url": "https://b.test/" + "x" * 2048}, Reason.FEDERATION_MALFORMED, "no plain URL"),
        ({"endpoint_url": "https://169.254.169.254/"}, Reason.ADDRESS_REFUSED, "never asked"),
        ({"endpoint_url": "https://[::ffff:169.254.169.254]/"}, Reason.ADDRESS_REFUSED, "never asked"),
        ({"endpoint_id": None}, Reason.FEDERATION_MALFORMED, "needs the SPIFFE ID"),
        ({"profile": Profile.HTTPS_WEB}, Reason.FEDERATION_MALFORMED, "takes no SPIFFE ID"),
    ],
)
def test_what_cannot_be_a_federation(change: dict[str, Any], reason: Reason, words: str) -> None:
    with pytest.raises(CitadelError, match=words) as refused:
        check_federation(A_TEST, replace(FEDERATION, **change))
    assert refused.value.reason is reason
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"endpoint_url": "https://10.0.0.1"},
        {"endpoint_url": "https://[::1]:8443/some/path?with=query"},
        {"profile": Profile.HTTPS_WEB, "endpoint_id": None},
        {"endpoint_id": SpiffeId.parse("spiffe://c.test/x")},
        {"endpoint_id": SpiffeId.parse("spiffe://a.test/x")},  # ours may serve the bundle of another
    ],
)
def test_what_can_be_one(change: dict[str, Any]) -> None:
    check_federation(A_TEST, replace(FEDERATION, **change))


async def test_a_bundle_is_durable_then_in_memory_then_told(store: Store, bundles: ForeignBundles) -> None:
    seen: list[object] = []
    bundles.watch(lambda trust_domain: seen.append((trust_domain, bundles.get(trust_domain), tuple(store.asked))))
    assert await bundles.put(OF_B, Source.FEDERATION, NOW)
    known = KnownBundle(bundle=OF_B, source=Source.FEDERATION, updated_at=NOW)
    assert seen == [(B_TEST, known, (("put", OF_B.sequence, None, NOW),))]
    assert dict(bundles.all()) == {B_TEST: known}


async def test_a_store_that_refuses_changes_nothing(store: Store, bundles: ForeignBundles) -> None:
    await bundles.put(OF_B, Source.FEDERATION, NOW)
    bundles.watch(lambda _: pytest.fail("told of a change that there was not"))
    store.down = True
    with pytest.raises(Unavailable):
        await bundles.put(replace(OF_B, sequence=2**60), Source.FEDERATION, LATER)
    with pytest.raises(Unavailable):
        await bundles.remove(B_TEST, at=LATER)
    assert bundles.all()[B_TEST].bundle == OF_B


async def test_the_same_again_changes_nothing(store: Store, bundles: ForeignBundles) -> None:
    await bundles.put(OF_B, Source.FEDERATION, NOW)
    bundles.watch(lambda _: pytest.fail("told of a change that there was not"))
    assert not await bundles.put(OF_B, Source.FEDERATION, LATER)
    assert bundles.all()[B_TEST].updated_at == NOW
    assert len(store.asked) == 1
    assert not await bundles.put(OF_B, Source.FEDERATION, LATER, act=ACT)
    assert store.asked[1:] == [("put", OF_B.sequence, ACT, LATER)]


@pytest.mark.invariant(7)
async def test_the_own_domain_and_an_older_sequence_are_refused(bundles: ForeignBundles) -> None:
    await bundles.put(sequence(5), Source.FEDERATION, NOW)
    for offered, reason in [
        (bundle(ONE, trust_domain=A_TEST), Reason.FEDERATION_OWN_DOMAIN),
        (sequence(4, TWO), Reason.BUNDLE_OLDER),
    ]:
        for force in (False,) if reason is Reason.BUNDLE_OLDER else (False, True):
            with pytest.raises(CitadelError) as refused:
                await bundles.put(offered, Source.SET, LATER, force=force)
            assert refused.value.reason is reason
    assert bundles.all()[B_TEST].bundle == sequence(5)
    assert set(bundles.all()) == {B_TEST}
    assert await bundles.put(sequence(4, TWO), Source.FEDERATION, LATER, force=True)
    assert bundles.all()[B_TEST].bundle == sequence(4, TWO)


async def test_a_removed_one_is_gone_and_told(store: Store, bundles: ForeignBundles) -> None:
    await bundles.put(OF_B, Source.FEDERATION, NOW)
    seen: list[object] = []
    bundles.watch(lambda trust_domain: seen.append((trust_domain, bundles.get(trust_domain))))
    removed = await bundles.remove(B_TEST, at=LATER)
    assert removed is not None
    assert removed.bundle == OF_B
    assert seen == [(B_TEST, None)]
    assert await bundles.remove(B_TEST, at=LATER) is None
    assert seen == [(B_TEST, None)]
    assert store.asked[1:] == [("remove", B_TEST, None, LATER)] * 2
