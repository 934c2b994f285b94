"""By what a child knows its parent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ca.upstream.citadel.identity import ParentIdentities, ParentIdentity
from ca.upstream.citadel.parent import Parent, ParentPace
from citadel.bundle import TrustBundle
from citadel.config.types import HostPort
from citadel.svid import X509Svid
from tests import certificates
from tests.clock import FakeClock
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


async def _take(_: Any) -> None:
    """No parent says anything here."""


def test_before_the_first_svid_it_is_not_said_that_one_has_ended(clock: FakeClock, tmp_path: Path) -> None:
    pace = ParentPace()
    identities = ParentIdentities(trust_domain=A_TEST, workload_api=tmp_path / "agent.sock", pace=pace, clock=clock)
    parent = Parent(
        address=HostPort.parse("127.0.0.1:1"),
        identities=identities,
        take=_take,
        known_roots=frozenset,
        pace=pace,
        clock=clock,
    )
    trouble = parent.trouble()
    assert trouble is not None
    assert trouble.message == "the agent of the parent has given this server no SVID yet"
