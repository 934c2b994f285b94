"""What may come between while an authority of a child is signed: then nothing is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ca.authority.model import Authority, AuthorityState
from ca.authority.ports import SignedDownstream
from ca.clusters import signing
from ca.clusters.callers import Child
from ca.clusters.signing import DownstreamSigner
from ca.keys.kinds import AuthorityKey
from citadel._wire import clusters_pb2 as pb
from citadel.errors import CitadelError, FailedPrecondition, PermissionDenied, Reason
from citadel.limiter import RateLimiter
from citadel.svid import X509Svid
from tests.certificates import root
from tests.children import child_csr
from tests.csrs import new_key
from tests.stores import MigratedStores
from tests.unit.ca.cluster import EAST, WEST
from tests.unit.ca.rotating import DAY, Disk, Server
from tests.unit.ca.values import A_TEST

CHILD = Child(svid=X509Svid(EAST, ()), issuer_id="")
REQUEST = pb.SignIssuerRequest(trust_domain="a.test", csr=child_csr(new_key()))
OTHER = replace(CHILD, svid=X509Svid(WEST, ()))


@dataclass
class Between:
    """Fulfils `Roots` and `Checks` as the server does, but for what comes between."""

    server: Server
    refuses: CitadelError | None = None  # the upstream does
    is_shut_out: bool = False
    after_signing: Callable[[Authority], Authority | None] = field(default=lambda root: root)
    _has_signed: bool = False

    async def sign_downstream(self, csr: bytes, *, lifetime: timedelta) -> SignedDownstream:
        if self.refuses is not None:
            raise self.refuses
        self._has_signed = True
        return await self.server.authorities.sign_downstream(csr, lifetime=lifetime)

    def authorities(self) -> Sequence[Authority]:
        found = self.server.authorities.authorities()
        return [each for each in map(self.after_signing, found) if each is not None] if self._has_signed else found

    def check(self, child: Child) -> datetime:
        if self.is_shut_out:
            raise PermissionDenied(Reason.DOWNSTREAM_REFUSED, f"{child.spiffe_id} is shut out")
        return self.server.clock.now()


@pytest.fixture
def store_url(tmp_path: Path, migrated_stores: MigratedStores) -> str:
    return migrated_stores.sqlite(tmp_path / "store.db")


@pytest.fixture
async def server(disk: Disk) -> AsyncIterator[Server]:
    async with disk.server() as server:
        yield server


def _request(key: AuthorityKey | None = None) -> pb.SignIssuerRequest:
    return pb.SignIssuerRequest(trust_domain="a.test", csr=child_csr(key or new_key()))  # type: ignore[arg-type] # an EC key


def _signer(server: Server, between: Between) -> DownstreamSigner:
    return DownstreamSigner(
        trust_domain=A_TEST,
        callers=between,
        authorities=between,
        records=server.records,
        limiter=RateLimiter(clock=server.clock, per_second=2),
        longest=DAY,
        clock=server.clock,
    )


async def test_what_was_signed_is_on_record(server: Server) -> None:
    signed = await _signer(server, Between(server)).sign(CHILD, REQUEST)
    assert [each.certificate for each in server.records.signed(EAST)] == [signed.chain[0]]
    assert server.records.has_below(server.authorities.bundle().x509_authorities[0])
    assert not server.records.has_below(root("other").certificate)
    assert (await server.disk.acts())[-1].startswith("downstream.sign ")


@pytest.mark.parametrize(
    ("between", "reason", "recorded"),
    [
        # A parent whose own authority comes from a folder, and is pathlen:0.
        ({"refuses": FailedPrecondition(Reason.UPSTREAM_CANNOT_SIGN, "no")}, Reason.UPSTREAM_CANNOT_SIGN, 0),
        ({"is_shut_out": True}, Reason.DOWNSTREAM_REFUSED, 1),
        ({"after_signing": lambda _: None}, Reason.ISSUER_UNAVAILABLE, 1),
        ({"after_signing": lambda root: replace(root, state=AuthorityState.TAINTED)}, Reason.ISSUER_UNAVAILABLE, 1),
    ],
    ids=["the upstream cannot", "shut out meanwhile", "the root has gone", "the root is tainted"],
)
async def test_nothing_is_answered_where_something_came_between(
    server: Server, between: dict[str, object], reason: Reason, recorded: int
) -> None:
    with pytest.raises(CitadelError) as refused:
        await _signer(server, Between(server, **between)).sign(CHILD, REQUEST)  # type: ignore[arg-type] # by name
    assert refused.value.reason is reason
    # What nobody was given is on record all the same: what is on record is all that there can be.
    assert len(server.records.signed(EAST)) == recorded


async def test_a_child_may_not_ask_all_the_time(server: Server) -> None:
    signer = _signer(server, Between(server))
    for _ in range(2):
        await signer.sign(CHILD, _request())
    with pytest.raises(CitadelError) as refused:
        await signer.sign(CHILD, _request())
    assert refused.value.reason is Reason.TOO_MANY_REQUESTS
    await server.clock.advance(1)
    await signer.sign(CHILD, _request())


async def test_what_is_signed_has_begun_also_where_the_clock_of_the_child_is_minutes_behind(server: Server) -> None:
    server.clock.leap(3600)
    signed = await _signer(server, Between(server)).sign(CHILD, REQUEST)
    assert server.clock.now() - signed.chain[0].not_valid_before_utc >= timedelta(minutes=5)
    assert signed.chain[0].not_valid_after_utc - server.clock.now() <= DAY


async def test_a_child_that_cannot_use_what_it_gets_is_not_given_ever_more(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "_MOST_LIVING", 2)
    signer, first = _signer(server, Between(server)), server.clock.now() + DAY
    for _ in range(2):
        await signer.sign(CHILD, _request())
        await server.clock.advance(1)
    with pytest.raises(PermissionDenied) as refused:
        await signer.sign(CHILD, _request())
    assert refused.value.reason is Reason.DOWNSTREAM_REFUSED
    assert refused.value.message == f"{EAST} has been given 2 issuing authorities that have not ended"
    assert f"wait until the first one ends at {first:%Y-%m-%dT%H:%M:%SZ}" in refused.value.fix
    await signer.sign(OTHER, _request())
    server.clock.leap((first - server.clock.now()).total_seconds())
    await signer.sign(CHILD, _request())


async def test_no_two_authorities_have_one_key(server: Server) -> None:
    """Agents would refuse the lists of everybody from then on: no verifier asks two of one key."""
    signer = _signer(server, Between(server))
    issuing = server.authorities.issuing()
    for child, request in ((CHILD, REQUEST), (CHILD, REQUEST), (OTHER, REQUEST), (OTHER, _request(issuing.key))):
        answers = await asyncio.gather(*(signer.sign(child, request) for _ in range(2)), return_exceptions=True)
        refused = [each for each in answers if isinstance(each, CitadelError)]
        assert len(refused) >= 1
        assert {(each.reason, each.fix) for each in refused} == {(Reason.DOWNSTREAM_REFUSED, "ask with a new key")}
        await server.clock.advance(1)
    assert (len(server.records.signed(EAST)), len(server.records.signed(WEST))) == (1, 0)
