"""The lines X509-* of the checklist that bind who parses and validates X509-SVIDs."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from citadel.errors import InvalidArgument, Reason, Unauthenticated
from citadel.spiffe import SpiffeId
from citadel.svid import verify_x509_svid
from tests.certificates import A_TEST, B_TEST, NOW, WORKLOAD, Signed, bundle, intermediate, key_usage, leaf, root, san
from tests.chains import Case, cases

TOP = root()
CA = x509.BasicConstraints(ca=True, path_length=None)
MANY_NAMES = x509.SubjectAlternativeName(
    [
        x509.DNSName("*.b.test"),
        x509.RFC822Name("b@b.test"),
        x509.UniformResourceIdentifier(WORKLOAD),
        x509.DNSName("spiffe.b.test"),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
    ]
)


def uris(*values: str) -> Signed:
    return leaf(TOP, names=san(*values))


REFUSED = [
    ("X509-03", "two SPIFFE IDs", uris(WORKLOAD, "spiffe://a.test/other"), "2 URI SANs"),
    ("X509-03", "a SPIFFE ID and a URL", uris(WORKLOAD, "https://a.test/"), "2 URI SANs"),
    ("X509-03", "a URL and a SPIFFE ID", uris("https://a.test/", WORKLOAD), "2 URI SANs"),
    ("X509-03", "one ID twice", uris(WORKLOAD, WORKLOAD), "2 URI SANs"),
    ("X509-03", "three", uris(WORKLOAD, WORKLOAD, WORKLOAD), "3 URI SANs"),
    ("X509-04", "no SAN extension", leaf(TOP, names=None), "0 URI SANs"),
    ("X509-04", "only DNS names", leaf(TOP, names=san(dns=["a.test"])), "0 URI SANs"),
    ("X509-04", "an ID that breaks the rules", uris("spiffe://a.test/a//b"), "empty path segment"),
    ("X509-04", "an ID in capitals", uris("spiffe://A.test/w"), "uppercase"),
    ("X509-04", "an empty URI", uris(""), "does not start with"),
    (
        "X509-04",
        "a SAN extension that is garbage",
        leaf(TOP, names=x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\xff")),
        "cannot be read",
    ),
    ("X509-30", "cA TRUE", leaf(TOP, constraints=CA), "cA TRUE"),
    ("X509-31", "keyCertSign", leaf(TOP, usage=key_usage("digital_signature", "key_cert_sign")), "keyCertSign"),
    ("X509-32", "cRLSign", leaf(TOP, usage=key_usage("digital_signature", "crl_sign")), "cRLSign"),
    ("X509-33", "another scheme", uris("sparfe://a.test/w"), "does not start with 'spiffe://'"),
    ("X509-33", "a URL", uris("https://a.test/w"), "does not start with 'spiffe://'"),
    ("X509-34", "no path", uris("spiffe://a.test"), "has no path"),
    ("X509-34", "the root path", uris("spiffe://a.test/"), "trailing slash"),
    ("X509-35", "a root as credential", TOP, "cA TRUE"),
    ("X509-35", "an issuing authority as credential", intermediate(TOP), "cA TRUE"),
    (
        "X509-35",
        "an issuing authority with the ID of a workload",
        intermediate(TOP, uri=WORKLOAD, constraints=None),
        "keyCertSign",
    ),
]


@pytest.mark.parametrize(
    ("signed", "rule"),
    [pytest.param(s, rule, id=f"{line}-{name}", marks=pytest.mark.spec(line)) for line, name, s, rule in REFUSED],
)
def test_a_leaf_that_breaks_a_rule_is_refused_though_its_path_is_good(signed: Signed, rule: str) -> None:
    with pytest.raises(InvalidArgument, match=rule) as refusal:
        verify_x509_svid([signed.der], {A_TEST: bundle(TOP)}, NOW)
    assert refusal.value.reason == Reason.SVID_MALFORMED


@pytest.mark.parametrize(
    "signed",
    [
        pytest.param(leaf(TOP, names=MANY_NAMES), id="other names", marks=pytest.mark.spec("X509-05")),
        pytest.param(leaf(TOP, dns=["a.test"]), id="a DNS name", marks=pytest.mark.spec("X509-05")),
        # The checklist's A10: section 5.2 obliges nobody to judge these, and other issuers differ in them.
        pytest.param(leaf(TOP, constraints=None), id="no basic constraints", marks=pytest.mark.spec("X509-30")),
        pytest.param(leaf(TOP, usage=None), id="no key usage", marks=pytest.mark.spec("X509-31", "X509-32")),
        pytest.param(
            leaf(TOP, extra=[(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), True)]),
            id="another extended key usage",
            marks=pytest.mark.spec("X509-27"),
        ),
    ],
)
def test_what_binds_no_validator_is_accepted(signed: Signed) -> None:
    svid = verify_x509_svid([signed.der], {A_TEST: bundle(TOP)}, NOW)
    assert svid.spiffe_id == SpiffeId.parse(WORKLOAD)


@pytest.mark.spec("X509-14", "X509-15", "X509-16", "X509-29")
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases()])
def test_the_path_is_validated(case: Case) -> None:
    bundles = {case.trust_domain: bundle(*case.anchors, trust_domain=case.trust_domain)}
    chain = [link.der for link in case.chain]
    if case.refusal:
        with pytest.raises(Unauthenticated, match=case.refusal) as refusal:
            verify_x509_svid(chain, bundles, case.now)
        assert refusal.value.reason == Reason.SVID_UNTRUSTED
    else:
        assert verify_x509_svid(chain, bundles, case.now).chain_der == tuple(chain)


@pytest.mark.spec("X509-36", "BUNDLE-17")
@pytest.mark.invariant(7)
class TestRootsAreChosenByTheTrustDomainOfTheLeaf:
    OF_B = root("root b.test", uri="spiffe://b.test")

    @pytest.mark.parametrize("chain", [[leaf(OF_B, WORKLOAD)], [leaf(m := intermediate(OF_B), WORKLOAD), m]])
    def test_another_domains_root_counts_for_nothing(self, chain: list[Signed]) -> None:
        ders = [link.der for link in chain]
        bundles = {A_TEST: bundle(TOP), B_TEST: bundle(self.OF_B, trust_domain=B_TEST)}
        with pytest.raises(Unauthenticated, match="is not trusted"):
            verify_x509_svid(ders, bundles, NOW)
        # The very chain is good as soon as that root is one of its own domain: only the choice of roots refused it.
        verify_x509_svid(ders, {A_TEST: bundle(TOP, self.OF_B)}, NOW)

    def test_each_domain_by_its_own(self) -> None:
        bundles = {A_TEST: bundle(TOP), B_TEST: bundle(self.OF_B, trust_domain=B_TEST)}
        for signed in (leaf(TOP), leaf(self.OF_B, "spiffe://b.test/w")):
            verify_x509_svid([signed.der], bundles, NOW)

    def test_what_domain_an_authority_says_it_is_of_is_no_matter(self) -> None:
        # Checklist A9: consumers do not look at the SANs of authorities; the domain comes from configuration.
        verify_x509_svid([leaf(self.OF_B, WORKLOAD).der], {A_TEST: bundle(self.OF_B)}, NOW)

    def test_a_domain_without_bundle(self) -> None:
        with pytest.raises(Unauthenticated, match=r"no bundle for trust domain a\.test"):
            verify_x509_svid([leaf(TOP).der], {B_TEST: bundle(TOP, trust_domain=B_TEST)}, NOW)

    def test_a_bundle_under_another_domains_name(self) -> None:
        with pytest.raises(Unauthenticated, match=r"no bundle for trust domain a\.test"):
            verify_x509_svid([leaf(TOP).der], {A_TEST: bundle(TOP, trust_domain=B_TEST)}, NOW)


@pytest.mark.spec("X509-35")
def test_a_leaf_is_never_its_own_anchor() -> None:
    with pytest.raises(InvalidArgument, match="cA FALSE") as refusal:
        bundle(leaf(TOP))
    assert refusal.value.reason == Reason.BUNDLE_MALFORMED


@pytest.mark.spec("X509-29")
def test_the_path_is_judged_at_the_moment_that_is_asked_about() -> None:
    signed = leaf(TOP, not_before=NOW, not_after=NOW + timedelta(seconds=2))
    for seconds, good in ((-1, False), (0, True), (1, True), (3, False)):
        moment = NOW + timedelta(seconds=seconds)
        if good:
            verify_x509_svid([signed.der], {A_TEST: bundle(TOP)}, moment)
        else:
            with pytest.raises(Unauthenticated):
                verify_x509_svid([signed.der], {A_TEST: bundle(TOP)}, moment)
