"""Which revocation lists stand in the validation contexts, and when none do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import structlog
from cryptography import x509

from citadel.revocation import NO_REVOCATIONS, RevocationSet
from sds.holdings import Holdings
from sds.serve.available import Available
from sds.serve.resource import BundleFacts, Resource
from sds.serve.secrets import SecretShelf
from tests import certificates
from tests.certificates import A_TEST, B_TEST, NOW
from tests.revocations import revocation_list, revocation_set
from tests.unit.sds.holding import ROOT, UID_1, entry, held, holdings, own_bundle
from tests.unit.sds.test_secrets import (
    BUNDLE_NAMES,
    FOREIGN,
    FOREIGN_BUNDLE,
    available,
    secret,
    trusted_ca,
    validator_domains,
)

ISSUER = certificates.intermediate(ROOT, "issuer")
NEXT = certificates.intermediate(ROOT, "next issuer")
ALONE = entry("web")
FEDERATED = entry("web", federates_with=frozenset({B_TEST}))
SET = revocation_set(ROOT, NEXT, ISSUER, revoked=(7,))


def with_lists(revocations: RevocationSet, of: object = ALONE, *, issuer: certificates.Signed = ISSUER) -> Holdings:
    there = holdings([of], [held(of, issuer=issuer)], own_bundle(), FOREIGN_BUNDLE)  # type: ignore[arg-type, list-item] # one of the two above
    return replace(there, revocations=revocations)


def lists_in(pem: bytes) -> list[x509.CertificateRevocationList]:
    return [
        x509.load_pem_x509_crl(b"-----BEGIN X509 CRL-----" + each)
        for each in pem.split(b"-----BEGIN X509 CRL-----")[1:]
    ]


def lists_of(*authorities: certificates.Signed) -> set[x509.Name]:
    return {each.certificate.subject for each in authorities}


def names(pem: bytes) -> set[x509.Name]:
    return {each.issuer for each in lists_in(pem)}


def has_none(resource: Resource) -> bool:
    context = secret(resource).validation_context
    return not context.HasField("crl") and not context.only_verify_leaf_cert_crl


def test_a_plain_context_has_the_lists_of_those_that_sign_leaves_and_asks_for_no_other() -> None:
    resources = available(with_lists(SET)).resources
    for name in BUNDLE_NAMES:
        context = secret(resources[name]).validation_context
        assert trusted_ca(resources[name]) == ROOT.pem
        assert names(context.crl.inline_bytes) == lists_of(ISSUER, NEXT)
        assert context.only_verify_leaf_cert_crl
        assert resources[name].facts == BundleFacts("a.test", 1, SET.version)
    (revoking,) = (each for each in lists_in(context.crl.inline_bytes) if each.issuer == ISSUER.certificate.subject)
    assert [each.serial_number for each in revoking] == [7]


@pytest.mark.invariant(7)
def test_the_spiffe_validator_finds_every_list_behind_the_roots_of_the_own_domain_and_none_behind_others() -> None:
    resources = available(with_lists(SET, FEDERATED)).resources
    for name in BUNDLE_NAMES:
        own = validator_domains(resources[name])["a.test"]
        assert own.startswith(ROOT.pem)
        assert names(own) == lists_of(ROOT, ISSUER, NEXT)
        assert has_none(resources[name])
        assert resources[name].facts == BundleFacts("a.test", 1, SET.version)
    assert validator_domains(resources["ALL"])["b.test"] == FOREIGN.pem
    assert validator_domains(resources["spiffe://b.test"]) == {"b.test": FOREIGN.pem}
    assert resources["spiffe://b.test"].facts == BundleFacts("b.test", 7, "")


@pytest.mark.parametrize("of", [ALONE, FEDERATED])
def test_without_lists_every_secret_is_as_if_there_were_no_such_thing(of: object) -> None:
    for none in (NO_REVOCATIONS, RevocationSet()):
        for resource in available(with_lists(none, of)).resources.values():
            assert has_none(resource)
            assert b"X509 CRL" not in resource.body.value
            assert not isinstance(resource.facts, BundleFacts) or resource.facts.revocation_version == ""


@pytest.mark.invariant(5)
@pytest.mark.parametrize(
    ("lists", "of", "are_given"),
    [
        (SET, ALONE, True),
        (SET, FEDERATED, True),
        (revocation_set(ISSUER), ALONE, True),  # of the root none is asked for here
        (revocation_set(NEXT, ISSUER), FEDERATED, False),
        (revocation_set(ROOT, NEXT), ALONE, False),  # not of who signed the SVID of this very node
        (revocation_set(ROOT, NEXT), FEDERATED, False),
        (revocation_set(ROOT), ALONE, False),
        (revocation_set(certificates.root("old"), ISSUER), FEDERATED, False),
    ],
)
def test_lists_that_leave_somebody_out_are_given_to_nobody_and_that_is_said_once(
    lists: RevocationSet, of: object, are_given: bool
) -> None:
    """A verifier that has lists refuses every issuer that it has none of."""
    shelf = SecretShelf(trust_domain=A_TEST)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            resources = shelf.available(with_lists(lists, of), frozenset({UID_1}), NOW).resources
    given = {name for name in BUNDLE_NAMES if b"X509 CRL" in resources[name].body.value}
    assert given == (BUNDLE_NAMES if are_given else set())
    facts = [resources[name].facts for name in sorted(BUNDLE_NAMES)]
    assert facts == [BundleFacts("a.test", 1, lists.version if are_given else "")] * 3
    is_whole = are_given and any(each.is_of_root for each in lists.lists)
    assert [log["version"] for log in logs if log["log_level"] == "error"] == ([] if is_whole else [lists.version])


def test_an_svid_that_has_ended_needs_no_list_of_its_issuer_any_more() -> None:
    web, job = entry("web"), entry("job")
    gone = held(job, issuer=certificates.intermediate(ROOT, "gone"), until=NOW)
    there = replace(holdings([web, job], [held(web, issuer=ISSUER), gone]), revocations=SET)
    assert not has_none(available(there).resources["ROOTCA"])


class TestBuildingOnce:
    def resources(self, shelf: SecretShelf, there: Holdings) -> Available:
        return shelf.available(there, frozenset({UID_1}), NOW)

    @pytest.mark.parametrize("of", [ALONE, FEDERATED])
    def test_a_new_set_makes_the_contexts_of_the_own_domain_anew_and_nothing_else(self, of: object) -> None:
        shelf, first = SecretShelf(trust_domain=A_TEST), with_lists(SET, of)
        before = self.resources(shelf, first).resources
        after = self.resources(shelf, replace(first, revocations=revocation_set(ROOT, NEXT, ISSUER))).resources
        changed = {name for name in before if before[name] is not after[name]}
        assert changed == BUNDLE_NAMES
        assert all(before[name].version != after[name].version for name in changed)

    def test_what_changes_beside_the_lists_makes_no_context_anew(self) -> None:
        shelf, first = SecretShelf(trust_domain=A_TEST), with_lists(SET)
        before = self.resources(shelf, first).resources
        after = self.resources(shelf, replace(first, svids={"web": held(ALONE, issuer=NEXT)})).resources
        assert {name for name in before if before[name] is not after[name]} == {"default", "spiffe://a.test/web"}

    def test_a_set_that_changes_nothing_for_a_caller_is_restated_and_not_pushed(self) -> None:
        """The root's list stands in no plain context, so that its content stays and only the facts change."""
        shelf, first = SecretShelf(trust_domain=A_TEST), with_lists(SET)
        leaves = [each for each in SET.lists if not each.is_of_root]
        other = RevocationSet((*leaves, revocation_list(ROOT, 9)))
        before = self.resources(shelf, first).resources["ROOTCA"]
        after = self.resources(shelf, replace(first, revocations=other)).resources["ROOTCA"]
        assert before.version == after.version
        assert (before.facts, after.facts) == (
            BundleFacts("a.test", 1, SET.version),
            BundleFacts("a.test", 1, other.version),
        )


def test_before_the_server_was_heard_no_context_is_offered_that_would_lack_its_lists() -> None:
    """After a restart of the agent its proxies keep the lists that they have."""
    assert not available(Holdings(bundles=holdings([]).bundles)).resources
