"""By what a child knows its parent."""

from __future__ import annotations

from dataclasses import replace

from ca.upstream.citadel.identity import ParentIdentity
from citadel.bundle import TrustBundle
from citadel.svid import X509Svid
from tests import certificates
from tests.unit.ca.values import A_TEST

OLD, NEW, EXCHANGED = (certificates.root(name) for name in ("old", "new", "exchanged"))
SVID = X509Svid.from_der([certificates.leaf(OLD, "spiffe://a.test/clusters/east").der])
BUNDLE = TrustBundle(trust_domain=A_TEST, x509_authorities=tuple(each.certificate for each in (OLD, NEW, EXCHANGED)))
IDENTITY = ParentIdentity(svid=SVID, key_pem=b"", bundle=BUNDLE, root=OLD.certificate)


def test_at_first_it_is_known_by_the_root_that_signed_our_own_svid_alone() -> None:
    assert IDENTITY.believed(()) == (OLD.certificate,)


def test_then_by_the_roots_that_it_has_told_of_and_never_by_one_that_is_for_workloads_alone() -> None:
    told = frozenset({OLD.certificate, NEW.certificate})
    assert IDENTITY.believed(told) == (OLD.certificate, NEW.certificate)


def test_a_root_that_it_has_told_of_and_that_its_agent_does_not_trust_counts_for_nothing() -> None:
    told = frozenset({OLD.certificate, NEW.certificate})
    alone = replace(IDENTITY, bundle=replace(BUNDLE, x509_authorities=(OLD.certificate,)))
    assert alone.believed(told) == (OLD.certificate,)
