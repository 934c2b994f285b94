from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_spiffe_validator_config_pb2

from citadel.selector import Selector
from citadel.spiffe import TrustDomain
from sds.holdings import HeldSvid, Holdings
from sds.serve.available import Available
from sds.serve.placeholder import discarded_root
from sds.serve.resource import BundleFacts, Resource, SvidFacts
from sds.serve.secrets import SecretShelf
from sds.settings import SecretNameSettings
from tests import certificates
from tests.certificates import A_TEST, B_TEST, NOW
from tests.unit.sds.holding import ROOT, UID_1, empty_bundle, entry, held, holdings, own_bundle

UID_2 = Selector("unix", "uid:2")
PATH = Selector("unix", "path:/bin/envoy")
FOREIGN = certificates.root("root b.test", "spiffe://b.test")
FOREIGN_BUNDLE = certificates.bundle(FOREIGN, trust_domain=B_TEST, sequence=7)
BUNDLE_NAMES = {"spiffe://a.test", "ROOTCA", "ALL"}
SECOND = timedelta(seconds=1)


def available(holding: Holdings, *selectors: Selector, now: Any = NOW) -> Available:
    return SecretShelf(trust_domain=A_TEST).available(holding, frozenset(selectors or (UID_1,)), now)


def secret(resource: Resource) -> Any:
    message = secret_pb2.Secret()
    assert resource.body.Unpack(message)
    assert message.name == resource.name
    return message


def validator_domains(resource: Resource) -> dict[str, bytes]:
    config = tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig()
    extension = secret(resource).validation_context.custom_validator_config
    assert extension.name == "envoy.tls.cert_validator.spiffe"
    assert extension.typed_config.Unpack(config)
    return {each.name: each.trust_bundle.inline_bytes for each in config.trust_domains}


def trusted_ca(resource: Resource) -> bytes:
    context = secret(resource).validation_context
    assert not context.HasField("custom_validator_config")
    return context.trusted_ca.inline_bytes


def serial_of(resource: Resource) -> str:
    assert isinstance(resource.facts, SvidFacts)
    return resource.facts.serial


def test_a_caller_gets_its_identity_under_both_names_and_its_bundle_under_three() -> None:
    web = entry("web")
    mine = held(web)
    resources = available(holdings([web], [mine])).resources
    assert resources.keys() == {"default", "spiffe://a.test/web"} | BUNDLE_NAMES
    for name in ("default", "spiffe://a.test/web"):
        certificate = secret(resources[name]).tls_certificate
        assert certificate.certificate_chain.inline_bytes == mine.svid.chain_pem
        key = load_pem_private_key(certificate.private_key.inline_bytes, None)
        assert key.public_key() == mine.svid.leaf.public_key()
        assert b"-----BEGIN PRIVATE KEY-----" in certificate.private_key.inline_bytes  # PKCS#8
        assert resources[name].facts == SvidFacts(
            "spiffe://a.test/web", mine.svid.serial, mine.svid.not_after, mine.issuer_key_id
        )
    for name in BUNDLE_NAMES:
        assert trusted_ca(resources[name]) == ROOT.pem
        assert resources[name].facts == BundleFacts("a.test", 1)


@pytest.mark.parametrize(
    ("selectors", "names"),
    [
        ((), set()),
        ((UID_2,), set()),
        ((PATH,), set()),
        ((UID_1,), {"spiffe://a.test/one"}),
        ((UID_1, UID_2), {"spiffe://a.test/one", "spiffe://a.test/both"}),
        ((UID_1, PATH), {"spiffe://a.test/one", "spiffe://a.test/path"}),
        ((UID_1, UID_2, PATH), {"spiffe://a.test/one", "spiffe://a.test/both", "spiffe://a.test/path"}),
    ],
)
def test_all_selectors_of_an_entry_must_match(selectors: tuple[Selector, ...], names: set[str]) -> None:
    """Who matches nothing gets nothing, not even the bundle."""
    entries = [entry("one"), entry("both", UID_1, UID_2), entry("path", UID_1, PATH)]
    shelf = SecretShelf(trust_domain=A_TEST)
    found = shelf.available(holdings(entries, map(held, entries)), frozenset(selectors), NOW).resources
    assert found.keys() == (names | {"default"} | BUNDLE_NAMES if names else set())


def test_callers_that_match_nothing_are_not_remembered() -> None:
    """Anybody can come with ever new paths of executables."""
    one, shelf = entry("one"), SecretShelf(trust_domain=A_TEST)
    there = holdings([one], [held(one)])
    for number in range(50):
        nothing = shelf.available(there, frozenset((Selector("unix", f"path:/tmp/{number}"),)), NOW)
        assert not nothing.resources
    assert not shelf._by_selectors
    assert shelf.available(there, frozenset((UID_1,)), NOW) is shelf.available(there, frozenset((UID_1,)), NOW)


def test_of_callers_that_match_and_look_ever_different_a_bounded_number_is_remembered() -> None:
    one, shelf = entry("one"), SecretShelf(trust_domain=A_TEST)
    there = holdings([one], [held(one)])
    mine = frozenset((UID_1,))
    for number in range(2100):
        assert shelf.available(there, mine | {Selector("unix", f"path:/tmp/{number}")}, NOW).resources
    assert len(shelf._by_selectors) + len(shelf._before) <= 2 * 1024


def test_who_was_there_before_sees_no_change_when_others_are_forgotten() -> None:
    one, shelf, mine = entry("one"), SecretShelf(trust_domain=A_TEST), frozenset((UID_1,))
    there = holdings([one], [held(one)])
    before = shelf.available(there, mine, NOW)
    for number in range(1100):
        shelf.available(there, mine | {Selector("unix", f"path:/tmp/{number}")}, NOW)
    assert shelf.available(there, mine, NOW) is before


def test_an_entry_without_selectors_matches_nobody() -> None:
    loose = entry("loose", selectors=frozenset())
    assert not available(holdings([loose], [held(loose)]), UID_1, UID_2).resources


def test_default_is_the_oldest_entry_and_stays_it_while_its_certificate_is_awaited() -> None:
    old = entry("z", created_at=NOW - 2 * SECOND)
    new = entry("a", created_at=NOW - SECOND)
    both = available(holdings([new, old], [held(new), held(old)])).resources
    assert both["default"].facts == both["spiffe://a.test/z"].facts
    awaited = available(holdings([new, old], [held(new)])).resources
    assert "default" not in awaited
    assert "spiffe://a.test/a" in awaited
    alone = available(holdings([new], [held(new)])).resources
    assert alone["default"].facts == alone["spiffe://a.test/a"].facts


@pytest.mark.invariant(9)
def test_an_expired_certificate_is_never_offered() -> None:
    web, job = entry("web"), entry("job")
    holding = holdings([web, job], [held(web, until=NOW + 10 * SECOND), held(job)])
    before = available(holding, now=NOW + 9 * SECOND)
    assert "spiffe://a.test/web" in before.resources
    assert before.until == NOW + 10 * SECOND
    at_the_end = available(holding, now=NOW + 10 * SECOND).resources
    assert "spiffe://a.test/web" not in at_the_end
    assert "spiffe://a.test/job" in at_the_end  # invariant 8: the others go on


def test_an_expired_entry_gives_nothing_though_its_certificate_is_good() -> None:
    brief = entry("brief", expires_at=NOW + 5 * SECOND)
    holding = holdings([brief], [held(brief)])
    before = available(holding, now=NOW)
    assert before.resources
    assert before.until == NOW + 5 * SECOND
    assert not available(holding, now=NOW + 5 * SECOND).resources


def test_a_shelf_does_not_offer_what_it_remembers_from_before_an_expiry() -> None:
    brief = entry("brief", expires_at=NOW + 5 * SECOND)
    holding = holdings([brief], [held(brief)])
    shelf = SecretShelf(trust_domain=A_TEST)
    assert shelf.available(holding, frozenset({UID_1}), NOW).resources
    assert not shelf.available(holding, frozenset({UID_1}), NOW + 5 * SECOND).resources


def test_a_certificate_that_has_not_come_yet_holds_back_no_bundle() -> None:
    assert available(holdings([entry("web")])).resources.keys() == BUNDLE_NAMES


@pytest.mark.invariant(7)
@pytest.mark.spec("X509-36", "BUNDLE-17", "FED-35")
def test_who_federates_gets_each_domain_apart_for_the_spiffe_validator() -> None:
    web = entry("web", federates_with=frozenset({B_TEST}))
    resources = available(holdings([web], [held(web)], own_bundle(), FOREIGN_BUNDLE)).resources
    own, foreign = {"a.test": ROOT.pem}, {"b.test": FOREIGN.pem}
    assert validator_domains(resources["ROOTCA"]) == own
    assert validator_domains(resources["spiffe://a.test"]) == own
    assert validator_domains(resources["spiffe://b.test"]) == foreign
    assert validator_domains(resources["ALL"]) == own | foreign
    assert resources["spiffe://b.test"].facts == BundleFacts("b.test", 7)
    assert resources["ALL"].facts == BundleFacts("a.test", 1)


def test_bundles_of_domains_that_the_caller_does_not_federate_with_are_not_shown() -> None:
    web, other = entry("web"), entry("other", UID_2, federates_with=frozenset({B_TEST}))
    resources = available(holdings([web, other], [], own_bundle(), FOREIGN_BUNDLE)).resources
    assert resources.keys() == BUNDLE_NAMES
    assert trusted_ca(resources["ALL"]) == ROOT.pem


def test_a_foreign_bundle_that_has_not_come_yet_holds_back_nothing() -> None:
    web = entry("web", federates_with=frozenset({B_TEST}))
    resources = available(holdings([web], [held(web)])).resources
    assert validator_domains(resources["ALL"]) == {"a.test": ROOT.pem}
    (nobody,) = validator_domains(resources["spiffe://b.test"]).values()
    assert nobody not in (ROOT.pem, FOREIGN.pem), "a proxy that waited for it would not go live"


def test_a_foreign_bundle_never_stands_in_for_the_own() -> None:
    web = entry("web", federates_with=frozenset({B_TEST}))
    assert available(holdings([web], [], FOREIGN_BUNDLE)).resources.keys() == {"spiffe://b.test"}


@pytest.mark.invariant(9)
@pytest.mark.spec("BUNDLE-03")
def test_an_empty_bundle_becomes_a_root_that_nobody_has_the_key_of_and_stays_that_root() -> None:
    web = entry("web", federates_with=frozenset({B_TEST}))
    shelf = SecretShelf(trust_domain=A_TEST)
    holding = holdings([web], [], empty_bundle(), empty_bundle(B_TEST))
    domains = validator_domains(shelf.available(holding, frozenset({UID_1}), NOW).resources["ALL"])
    assert domains.keys() == {"a.test", "b.test"}
    assert domains["a.test"] != domains["b.test"]
    for pem in domains.values():
        root = x509.load_pem_x509_certificate(pem)
        root.verify_directly_issued_by(root)
        with pytest.raises((InvalidSignature, ValueError)):
            root.verify_directly_issued_by(ROOT.certificate)
        assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    again = holdings([web], [], empty_bundle(), empty_bundle(B_TEST))
    assert validator_domains(shelf.available(again, frozenset({UID_1}), NOW).resources["ALL"]) == domains


def test_two_discarded_roots_differ_in_name() -> None:
    """BoringSSL looks issuers up by name."""
    one, two = (x509.load_pem_x509_certificate(discarded_root(A_TEST)) for _ in range(2))
    assert one.subject != two.subject


class TestBuildingOnce:
    def test_the_same_secret_serves_every_stream_and_every_later_snapshot(self) -> None:
        web, job = entry("web"), entry("job", UID_2)
        mine, bundle = held(web), own_bundle()
        shelf = SecretShelf(trust_domain=A_TEST)
        first = shelf.available(holdings([web], [mine], bundle), frozenset({UID_1}), NOW).resources
        snapshot = holdings([web, job], [mine, held(job)], bundle)
        second = shelf.available(snapshot, frozenset({UID_1}), NOW).resources
        third = shelf.available(snapshot, frozenset({UID_1, PATH}), NOW).resources
        for name in first:
            assert first[name] is second[name] is third[name]

    def test_a_new_certificate_is_a_new_secret_and_the_bundle_stays(self) -> None:
        web, bundle = entry("web"), own_bundle()
        shelf = SecretShelf(trust_domain=A_TEST)
        first = shelf.available(holdings([web], [held(web)], bundle), frozenset({UID_1}), NOW).resources
        second = shelf.available(holdings([web], [held(web)], bundle), frozenset({UID_1}), NOW).resources
        assert first["default"].version != second["default"].version
        assert first["ROOTCA"] is second["ROOTCA"]

    def test_what_nobody_asks_for_any_more_is_forgotten(self) -> None:
        web = entry("web")
        shelf = SecretShelf(trust_domain=A_TEST)
        shelf.available(holdings([web], [held(web)]), frozenset({UID_1}), NOW)
        for _ in range(2):
            shelf.available(holdings([]), frozenset({UID_1}), NOW)
        assert not shelf._built._now
        assert not shelf._built._before

    @pytest.mark.invariant(7)
    def test_a_root_that_may_be_over_other_trust_domains_lets_none_of_their_workloads_in(self) -> None:
        unnamed, other = certificates.root("shared", uri=None), certificates.root("b", uri="spiffe://b.test")
        for root in (unnamed, other):
            bundle = certificates.bundle(ROOT, root, sequence=1)
            found = available(holdings([entry("web")], [], bundle)).resources
            for name in BUNDLE_NAMES:
                assert validator_domains(found[name]).keys() == {"a.test"}
        assert trusted_ca(available(holdings([entry("web")], [], own_bundle())).resources["ROOTCA"]) == ROOT.pem

    def test_a_federation_that_begins_changes_the_form_of_the_own_bundle(self) -> None:
        shelf, bundle = SecretShelf(trust_domain=A_TEST), own_bundle()
        alone = shelf.available(holdings([entry("web")], [], bundle), frozenset({UID_1}), NOW).resources
        federated = entry("web", federates_with=frozenset({B_TEST}))
        wide = shelf.available(holdings([federated], [], bundle), frozenset({UID_1}), NOW).resources
        assert trusted_ca(alone["ROOTCA"]) == validator_domains(wide["ROOTCA"])["a.test"]
        assert alone["ROOTCA"].version != wide["ROOTCA"].version


class TestVersions:
    def test_the_same_content_has_the_same_version_whoever_builds_it(self) -> None:
        web = entry("web")
        mine = held(web)
        one, two = (available(holdings([web], [mine])).resources for _ in range(2))
        assert {name: each.version for name, each in one.items()} == {name: each.version for name, each in two.items()}

    def test_a_sequence_alone_changes_the_facts_and_not_the_version(self) -> None:
        one = available(holdings([entry("web")], [], own_bundle(1))).resources["ROOTCA"]
        two = available(holdings([entry("web")], [], own_bundle(2))).resources["ROOTCA"]
        assert one.version == two.version
        assert (one.facts, two.facts) == (BundleFacts("a.test", 1), BundleFacts("a.test", 2))

    @pytest.mark.invariant(1)
    def test_nothing_that_is_reported_depends_on_the_private_key(self) -> None:
        """Reports go to the server: a version made from the key would take something of it off the node."""
        web = entry("web")
        mine = held(web)
        other = replace(mine, private_key=held(web).private_key)
        one, two = (available(holdings([web], [each])).resources["default"] for each in (mine, other))
        assert one.body != two.body
        assert (one.version, one.facts) == (two.version, two.facts)


@pytest.mark.invariant(1)
@pytest.mark.invariant(10)
def test_neither_a_held_key_nor_a_resource_shows_its_key_when_printed() -> None:
    web = entry("web")
    mine: HeldSvid = held(web)
    shown = repr(mine) + repr(available(holdings([web], [mine])))
    assert "PRIVATE" not in shown
    assert repr(mine.private_key) not in shown


@pytest.mark.parametrize(
    ("selector", "wanted"), [("unix:sha256:ab", True), ("unix:uid:1", False), ("k8s:sha256:ab", False)]
)
def test_digests_are_wanted_as_long_as_an_entry_asks_for_one_and_lacks_nothing_else(
    selector: str, wanted: bool
) -> None:
    shelf = SecretShelf(trust_domain=A_TEST)
    asking = entry("web", Selector.parse(selector), UID_1)
    another = Selector("unix", "path:/bin/x")
    assert shelf.wants_sha256(holdings([asking]), frozenset({UID_1, another})) is wanted
    assert not shelf.wants_sha256(holdings([asking]), frozenset({another}))
    assert not shelf.wants_sha256(holdings([]), frozenset({UID_1}))


def test_a_digest_alone_is_wanted_of_everybody() -> None:
    shelf = SecretShelf(trust_domain=A_TEST)
    assert shelf.wants_sha256(holdings([entry("web", Selector("unix", "sha256:ab"))]), frozenset())


def test_two_entries_of_one_identity_serve_it_once_from_whichever_has_a_certificate() -> None:
    one = entry("one", spiffe_id=A_TEST.member("web"), created_at=NOW - SECOND)
    two = entry("two", spiffe_id=A_TEST.member("web"), created_at=NOW)
    of_two = held(two)
    resources = available(holdings([one, two], [of_two])).resources
    assert serial_of(resources["default"]) == of_two.svid.serial
    of_one = held(one)
    assert serial_of(available(holdings([one, two], [of_one, of_two])).resources["default"]) == of_one.svid.serial


@pytest.mark.invariant(9)
def test_of_an_unknown_domain_nobody_is_trusted_and_nothing_is_made_up_for_who_does_not_federate() -> None:
    domain = TrustDomain("c.test")
    resources = available(holdings([entry("web", federates_with=frozenset({domain}))])).resources
    (nobody,) = validator_domains(resources["spiffe://c.test"]).values()
    with pytest.raises((InvalidSignature, ValueError)):
        x509.load_pem_x509_certificate(nobody).verify_directly_issued_by(ROOT.certificate)
    assert resources["spiffe://c.test"].facts == BundleFacts("c.test", 0)
    assert "c.test" not in validator_domains(resources["ALL"])
    assert "spiffe://c.test" not in available(holdings([entry("web")])).resources


def test_the_short_names_are_settings() -> None:
    web = entry("web")
    names = SecretNameSettings(default="me", root="own-roots", all="all-roots")
    shelf = SecretShelf(trust_domain=A_TEST, names=names)
    found = shelf.available(holdings([web], [held(web)]), frozenset({UID_1}), NOW).resources
    assert found.keys() == {"me", "own-roots", "all-roots", "spiffe://a.test/web", "spiffe://a.test"}


@pytest.mark.invariant(5)
def test_what_a_caller_may_have_and_is_not_there_is_awaited_and_only_the_rest_ruled_out() -> None:
    web = entry("web", federates_with=frozenset({B_TEST}))
    now = available(holdings([web]))
    for name in ("default", "spiffe://a.test/web"):
        assert name not in now.resources
        assert not now.rules_out(name)
    assert not now.rules_out("spiffe://b.test"), "it is there, and trusts nobody"
    for name in ("spiffe://a.test/other", "spiffe://c.test", "made up"):
        assert now.rules_out(name)
    assert not now.rules_out("ROOTCA"), "it is there"
    stranger = available(holdings([web]), UID_2)
    assert stranger.rules_out("default")
    before = available(Holdings(bundles=holdings([]).bundles))
    assert not before.rules_out("default"), "the server has not told its entries yet"


def test_a_caller_has_the_very_same_until_something_of_its_own_changes() -> None:
    """So that a thousand streams see at once that there is nothing to do for them."""
    web, job = entry("web"), entry("job", UID_2)
    first = holdings([web, job], [held(web), held(job)])
    shelf, mine = SecretShelf(trust_domain=A_TEST), frozenset({UID_1})
    before = shelf.available(first, mine, NOW)
    others = replace(first, entries=dict(first.entries), svids={**first.svids, "job": held(job)})
    assert shelf.available(others, mine, NOW) is before
    renewed = replace(others, svids={**others.svids, "web": held(web)})
    assert shelf.available(renewed, mine, NOW) is not before
