"""The own bundle, its sequences, and what agents are told of it where other clusters bring roots in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from ca.api.sessions import AgentSession
from ca.authority.own_bundle import OwnBundle
from ca.entries.watch import EntryNews
from ca.keys.disk import DiskKeys
from ca.keys.manager import SealedKeyManager
from ca.keys.sealing import KekSealer
from ca.store.authorities import SqlAuthorityStore
from ca.store.database import Database
from citadel._wire import agent_api_pb2 as pb
from citadel.jwk import JwtKey
from citadel.revocation import RevocationList
from tests import certificates
from tests.clock import FakeClock
from tests.unit.ca.tokens import own_bundle
from tests.unit.ca.values import A_TEST, NOW, agent

OURS, NEXT, THEIRS = (certificates.root(name).certificate for name in ("ours", "our next", "theirs"))


class Brings:
    """A neighbour with roots."""

    def __init__(self, *roots: x509.Certificate) -> None:
        self.brought = roots

    def roots(self) -> Sequence[x509.Certificate]:
        return self.brought

    def jwt_keys(self) -> Mapping[str, JwtKey]:
        return {}

    def lists(self) -> Sequence[RevocationList] | None:
        return None


@dataclass
class Disk:
    """What survives a restart. Each `own()` is another process on it."""

    database: Database
    folder: Path
    neighbour: Brings

    def own(self) -> OwnBundle:
        store = SqlAuthorityStore(database=self.database, trust_domain=A_TEST)
        keys = SealedKeyManager(keys=DiskKeys(self.folder), trust_domain=A_TEST, sealer=KekSealer(bytes(32)))
        return own_bundle(store, database=self.database, keys=keys, clock=FakeClock(), neighbours=[self.neighbour])


@pytest.fixture
def disk(database: Database, tmp_path: Path) -> Disk:
    return Disk(database, tmp_path / "keys", Brings(THEIRS))


def told(session: AgentSession, own: OwnBundle) -> list[pb.Update]:
    """What an agent hears of it."""
    return list(
        session.updates(
            news=EntryNews(is_everything=True, entries={}),
            bundles={A_TEST: own.bundle()},
            for_workloads_alone=[each.fingerprint(hashes.SHA256()) for each in own.for_workloads_alone()],
            revision=1,
        )
    )


@pytest.mark.invariant(11)
async def test_what_is_for_workloads_alone_is_content_of_the_bundle_though_no_document_says_it(disk: Disk) -> None:
    own, sequences = disk.own(), []
    steps: Sequence[tuple[str, list[x509.Certificate], tuple[x509.Certificate, ...]]] = [
        ("exchanged", [OURS], (THEIRS,)),
        ("the same again", [OURS], (THEIRS,)),
        ("a root of our own is prepared", [OURS, NEXT], (THEIRS,)),
        ("the older one is dropped, in an emergency too", [NEXT], (THEIRS,)),
        ("the exchanged one is our own now, so servers stand under it", [NEXT, THEIRS], ()),
        ("and no longer", [NEXT], (THEIRS,)),
    ]
    for step, roots, alone in steps:
        is_new = await own.settle(roots)
        assert own.for_workloads_alone() == alone, step
        assert set(own.bundle().x509_authorities) == {*roots, THEIRS}, step
        own_again = disk.own()
        await own_again.settle(roots)
        assert (own_again.bundle(), own_again.sequences()) == (own.bundle(), own.sequences()), step
        assert is_new == (own.bundle().sequence not in sequences), step
        sequences.append(own.bundle().sequence)
    assert sequences == [1, 1, 2, 3, 4, 5]
    assert own.sequences().x509 == 5, "rotations wait for who has not heard of it"
    assert own.sequences().jwt == 1


@pytest.mark.invariant(11)
async def test_an_agent_hears_that_an_exchanged_root_has_become_one_of_our_own(disk: Disk) -> None:
    own, session = disk.own(), AgentSession(agent=agent(), connected_at=NOW)
    await own.settle([OURS])
    (update,) = told(session, own)
    assert list(update.bundles[0].for_workloads_alone) == [THEIRS.fingerprint(hashes.SHA256())]
    assert not told(session, own)
    await own.settle([OURS, THEIRS])
    (update,) = told(session, own)
    assert list(update.bundles[0].for_workloads_alone) == []


async def test_a_server_that_exchanges_nothing_keeps_the_digest_that_an_older_one_has_recorded(disk: Disk) -> None:
    disk.neighbour.brought = ()
    own = disk.own()
    await own.settle([OURS])
    store = SqlAuthorityStore(database=disk.database, trust_domain=A_TEST)
    bundle = own.bundle()
    assert await store.bundle_sequences(x509=bundle.x509_digest(), jwt=bundle.jwt_digest()) == own.sequences()
    assert own.sequences().bundle == 1
