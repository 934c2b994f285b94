"""What a parent says is to be trusted is taken whole, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Final

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authority.model import AuthorityState
from ca.revocation.crl import build_crl
from ca.upstream.citadel.trust import read_kept_trust, read_trust
from citadel._wire import clusters_pb2 as pb
from citadel._wire import types_pb2
from citadel.bundle import TrustBundle
from citadel.errors import FailedPrecondition, Reason
from citadel.spiffe import TrustDomain
from tests.clock import FakeClock
from tests.csrs import new_key
from tests.unit.ca.parent import FakeParent, Root
from tests.unit.ca.values import A_TEST, NOW

CLOCK: Final = FakeClock()
OLD, NEW, STRANGER = Root.made(CLOCK, "old"), Root.made(CLOCK), Root.made(CLOCK)
KEY: Final = new_key()
ISSUER: Final = NEW.issuer(KEY.public_key(), CLOCK, timedelta(days=1))


def good() -> pb.ClusterTrust:
    trust = FakeParent(CLOCK, roots=[OLD, NEW], keys={"k1": new_key().public_key()}).trust()
    trust.revocations.lists.add(
        issuer=ISSUER.public_bytes(Encoding.DER),
        crl=build_crl(issuer=ISSUER, key=KEY, number=1, revoked=()).public_bytes(Encoding.DER),
    )
    return trust


def bundle_of(*roots: Root, domain: str = "a.test") -> types_pb2.Bundle:
    made = TrustBundle(trust_domain=TrustDomain(domain), x509_authorities=tuple(root.certificate for root in roots))
    return types_pb2.Bundle(trust_domain=domain, json=made.to_json())


def test_all_of_it_is_read() -> None:
    trust = read_trust(good(), trust_domain=A_TEST, now=NOW)
    assert trust.roots == {OLD.certificate: AuthorityState.OLD, NEW.certificate: AuthorityState.ACTIVE}
    assert set(trust.bundle.jwt_authorities) == {"k1"}
    assert {each.issuer for each in trust.lists} == {OLD.certificate, NEW.certificate, ISSUER}
    assert (trust.lists_are_whole, trust.further) == (True, ())
    assert read_kept_trust(trust.message, trust_domain=A_TEST, now=NOW) == trust


def test_what_is_in_the_bundle_beside_the_roots_is_for_workloads_alone() -> None:
    said = good()
    said.bundle.CopyFrom(bundle_of(OLD, NEW, STRANGER))
    assert read_trust(said, trust_domain=A_TEST, now=NOW).further == (STRANGER.certificate,)


@pytest.mark.invariant(9)
def test_lists_of_authorities_that_no_root_vouches_for_are_left_out() -> None:
    """Agents refuse a set that has one."""
    said = good()
    said.revocations.lists.append(STRANGER.revocation_list())
    assert STRANGER.certificate not in {each.issuer for each in read_trust(said, trust_domain=A_TEST, now=NOW).lists}


def _another_domain(said: pb.ClusterTrust) -> None:
    said.bundle.CopyFrom(bundle_of(NEW, domain="b.test"))


def _garbage(said: pb.ClusterTrust) -> None:
    said.bundle.json = b"{"


def _no_roots(said: pb.ClusterTrust) -> None:
    said.bundle.CopyFrom(bundle_of())


def _none_active(said: pb.ClusterTrust) -> None:
    del said.roots[1]


def _unknown_state(said: pb.ClusterTrust) -> None:
    said.roots[0].state = "sideways"


def _root_outside(said: pb.ClusterTrust) -> None:
    said.roots.add(certificate=STRANGER.der, state="prepared")


def _bad_root(said: pb.ClusterTrust) -> None:
    said.roots[0].certificate = b"garbage"


def _bad_list(said: pb.ClusterTrust) -> None:
    said.revocations.lists[0].crl = b"garbage"


def _list_of_another(said: pb.ClusterTrust) -> None:
    said.revocations.lists[2].crl = said.revocations.lists[0].crl


def _list_twice(said: pb.ClusterTrust) -> None:
    said.revocations.lists.append(said.revocations.lists[2])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_another_domain, "'b.test', and trust_domain is a.test"),
        (_garbage, "JSON"),
        (_no_roots, "has no X.509 authority"),
        (_none_active, "no root is active"),
        (_unknown_state, "'sideways'"),
        (_root_outside, "a root is not in the bundle"),
        (_bad_root, "cannot be read"),
        (_bad_list, "cannot be read"),
        (_list_of_another, "was not signed by"),
        (_list_twice, "two revocation lists are of one authority"),
    ],
)
def test_what_cannot_be_is_refused_as_a_whole(spoil: Callable[[pb.ClusterTrust], None], words: str) -> None:
    said = good()
    spoil(said)
    with pytest.raises(FailedPrecondition) as refused:
        read_trust(said, trust_domain=A_TEST, now=NOW)
    assert refused.value.reason is Reason.UPSTREAM_INVALID
    assert words in refused.value.message


def test_kept_trust_whose_lists_have_become_bad_is_taken_up_without_them() -> None:
    """As after the clock was set back: a start must not fail, and nobody may check lists that are not whole."""
    said = good()
    trust = read_kept_trust(
        said.SerializeToString(), trust_domain=A_TEST, now=OLD.certificate.not_valid_before_utc - timedelta(days=1)
    )
    assert (trust.lists, trust.lists_are_whole) == ((), False)
    assert len(trust.roots) == 2
