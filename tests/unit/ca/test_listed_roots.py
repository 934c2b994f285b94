"""Roots that an upstream lists: what keeps one in the bundle that is listed no more, and what never comes back."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from ca.authority.model import AuthorityState
from ca.authority.vouching import Vouching
from ca.keys.disk import DiskKeys
from ca.keys.manager import SealedKeyManager
from ca.keys.sealing import KekSealer
from ca.store.authorities import SqlAuthorityStore
from ca.store.database import Database
from ca.store.successions import SqlSuccessions
from ca.upstream.roots import ListedRoots
from citadel.errors import FailedPrecondition, Reason
from tests.certificates import A_TEST, root
from tests.clock import FakeClock

FIRST, SECOND = root("first"), root("second")
SAME_KEY = root("first", key=FIRST.key).certificate
LISTED = (FIRST.certificate, SECOND.certificate)


@pytest.fixture
def below() -> set[x509.Certificate]:
    """Roots under which a child has an authority."""
    return set()


@pytest.fixture
async def roots(database: Database, tmp_path: Path, clock: FakeClock, below: set[x509.Certificate]) -> ListedRoots:
    keys = SealedKeyManager(keys=DiskKeys(tmp_path), trust_domain=A_TEST, sealer=KekSealer(bytes(32)))
    successions = SqlSuccessions(database=database, trust_domain=A_TEST)
    roots = ListedRoots(
        store=SqlAuthorityStore(database=database, trust_domain=A_TEST),
        keys=keys,
        vouching=Vouching(trust_domain=A_TEST, keys=keys, store=successions, clock=clock, lasts=timedelta(days=1)),
        clock=clock,
        has_below=below.__contains__,
    )
    await roots.start()
    await roots.record(FIRST.certificate, AuthorityState.ACTIVE, "first")
    await roots.take(LISTED)
    return roots


async def test_one_that_is_listed_no_more_stays_while_a_child_hangs_on_it(
    roots: ListedRoots, clock: FakeClock, below: set[x509.Certificate]
) -> None:
    below.add(SECOND.certificate)
    for _ in range(3):
        await roots.take((FIRST.certificate,))
        clock.leap(61)
    assert roots.certificates() == LISTED
    below.clear()
    await roots.take((FIRST.certificate,))
    assert roots.certificates() == LISTED
    clock.leap(61)
    await roots.take((FIRST.certificate,))
    assert roots.certificates() == (FIRST.certificate,)


async def test_no_certificate_with_the_key_of_a_tainted_root_is_taken_also_after_a_restart(roots: ListedRoots) -> None:
    assert FIRST.certificate != SAME_KEY
    await roots.take((*LISTED, SAME_KEY))
    await roots.prepare(SECOND.certificate, "second")
    await roots.activate("second", taints=True)
    assert len(roots.of(AuthorityState.TAINTED)) == 2
    await roots.drop([each.id for each in roots.of(AuthorityState.TAINTED)])
    for _ in range(2):
        assert await roots.take((*LISTED, SAME_KEY)) == []
        assert roots.certificates() == (SECOND.certificate,)
        assert list(roots.tainted_and_listed()) == [FIRST.certificate, SAME_KEY]
        with pytest.raises(FailedPrecondition, match="never trusted again") as refused:
            await roots.prepare(SAME_KEY, "third")
        assert refused.value.reason is Reason.UPSTREAM_INVALID
        await roots.start()
