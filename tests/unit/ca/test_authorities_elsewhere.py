"""Authorities whose keys are elsewhere, or of other kinds than usual: made, vouched for, waiting while it is away."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ca.authority.manager import AuthorityManager
from ca.authority.model import AuthorityKind, AuthorityState
from ca.keys.disk import DiskKeys
from ca.keys.kinds import KeyKind
from ca.keys.manager import SealedKeyManager
from ca.keys.sealing import KekSealer
from citadel.errors import Reason, Unavailable
from citadel.succession import heirs_of
from tests.clock import FakeClock
from tests.remote_keys import RemoteKeys
from tests.unit.ca.test_authorities import NEXT_ROOT, Machine, machine, rotate_root
from tests.unit.ca.values import A_TEST

__all__ = ["machine"]  # the fixture

SEALED = Unavailable(Reason.VAULT_UNAVAILABLE, "Vault is sealed")


def sealed_keys(machine: Machine, kind: KeyKind = KeyKind.EC_P256) -> SealedKeyManager:
    return SealedKeyManager(keys=DiskKeys(machine.folder), trust_domain=A_TEST, sealer=KekSealer(bytes(32)), kind=kind)


async def remote(machine: Machine) -> tuple[AuthorityManager, RemoteKeys]:
    keys = RemoteKeys(sealed_keys(machine))
    manager = machine.manager(keys=keys)
    await manager.start()
    return manager, keys


@pytest.mark.parametrize("kind", [KeyKind.EC_P384, KeyKind.RSA_2048])
@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_authorities_of_any_kind_sign_each_other_and_vouch_for_what_comes(
    machine: Machine, clock: FakeClock, kind: KeyKind, where: str
) -> None:
    local = sealed_keys(machine, kind)
    manager = machine.manager(keys=RemoteKeys(local) if where == "elsewhere" else local)
    await manager.start()
    first, _ = manager.authorities()
    await rotate_root(manager, manager.issuing().authority)
    second, issuer = manager.authorities()
    assert (second.id, issuer.parent_id) == (NEXT_ROOT, NEXT_ROOT)
    for certificate in (first.certificate, second.certificate):
        certificate.verify_directly_issued_by(certificate)
    issuer.certificate.verify_directly_issued_by(second.certificate)
    assert issuer.certificate.public_key().key_size == second.certificate.public_key().key_size  # type: ignore[union-attr] # of this kind
    heirs = heirs_of([first.certificate], manager.successions(), trust_domain=A_TEST, now=clock.now())
    assert heirs == {second.certificate}


async def test_while_it_is_away_no_root_is_made_and_no_key_is_left_behind(machine: Machine) -> None:
    manager, keys = await remote(machine)
    before, known = manager.bundle(), machine.key_ids()
    for fault, is_forgetful in (("failure", False), ("denial", False), ("denial", True)):
        keys.is_forgetful = is_forgetful
        setattr(keys.elsewhere, fault, SEALED)
        with pytest.raises(Unavailable):
            await manager.prepare_root(NEXT_ROOT)
        setattr(keys.elsewhere, fault, None)
    assert (manager.bundle(), machine.key_ids() - known) == (before, set())
    await manager.prepare_root(NEXT_ROOT)
    assert len(manager.bundle().x509_authorities) == 2


@pytest.mark.invariant(12)
async def test_what_cannot_be_opened_does_not_sign_and_what_signed_goes_on(machine: Machine) -> None:
    manager, keys = await remote(machine)
    before = manager.issuing()
    await manager.prepare_issuer("1" * 32)
    keys.is_forgetful, keys.elsewhere.failure = True, SEALED
    with pytest.raises(Unavailable):
        await manager.activate_issuer("1" * 32)
    assert manager.issuing() == before
    states = {each.id: each.state for each in await machine.store.load() if each.kind is AuthorityKind.ISSUER}
    assert states == {before.authority.id: AuthorityState.ACTIVE, "1" * 32: AuthorityState.PREPARED}
    keys.elsewhere.failure = None
    await manager.activate_issuer("1" * 32)
    assert manager.issuing().authority.id == "1" * 32


async def test_a_tainted_root_is_dropped_while_it_is_away(machine: Machine) -> None:
    manager, keys = await remote(machine)
    bad = manager.authorities()[0]
    await manager.prepare_root(NEXT_ROOT)
    await manager.activate_root(NEXT_ROOT, taints=True)
    keys.is_forgetful, keys.elsewhere.failure = True, SEALED
    await manager.drop_roots([bad.id])
    assert bad.certificate not in manager.bundle().x509_authorities
    assert manager.issuing().authority.parent_id == NEXT_ROOT


async def test_a_root_that_is_left_in_peace_waits_until_it_can_vouch(machine: Machine, clock: FakeClock) -> None:
    manager, keys = await remote(machine)
    old = manager.authorities()[0]
    await manager.prepare_root(NEXT_ROOT)
    keys.elsewhere.failure = SEALED
    with pytest.raises(Unavailable):
        await manager.activate_root(NEXT_ROOT, taints=False)
    assert manager.issuing().authority.parent_id == old.id
    keys.elsewhere.failure = None
    await manager.activate_root(NEXT_ROOT, taints=False)
    keys.elsewhere.failure = SEALED
    with pytest.raises(Unavailable):
        await manager.drop_roots([old.id])
    assert old.certificate in manager.bundle().x509_authorities
    keys.elsewhere.failure = None
    await manager.drop_roots([old.id])
    assert old.certificate not in manager.bundle().x509_authorities
    later = clock.now() + timedelta(seconds=1)
    assert heirs_of([old.certificate], manager.successions(), trust_domain=A_TEST, now=later)
