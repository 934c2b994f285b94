from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from citadel.config.types import HostPort
from citadel.errors import CitadelError, FailedPrecondition, Reason, Unavailable
from citadel.spiffe import TrustDomain
from citadel.svid import X509Svid
from sds.keep.keys import new_key, to_pem
from sds.link.identity import AgentIdentity, IdentityFile, OwnIdentity
from tests.unit.sds.fake_authority import A_TEST, FakeAuthority
from tests.unit.sds.fake_server import AGENT, HOUR, make_identity, now

ADDRESS = HostPort("127.0.0.1", 8444)


@pytest.fixture
def authority() -> FakeAuthority:
    return FakeAuthority(now())


@pytest.fixture
def file(tmp_path: Path) -> IdentityFile:
    return IdentityFile(tmp_path / "agent")


@pytest.fixture
def identity(authority: FakeAuthority, file: IdentityFile) -> AgentIdentity:
    assert file.load(A_TEST) is None  # makes the folder
    made = make_identity(authority, ADDRESS)
    file.save(made)
    return made


def key_bytes(identity: AgentIdentity) -> tuple[bytes, bytes | None]:
    return to_pem(identity.key), to_pem(identity.next_key) if identity.next_key else None


@pytest.mark.parametrize("with_next_key", [False, True])
def test_what_was_saved_is_loaded(file: IdentityFile, identity: AgentIdentity, with_next_key: bool) -> None:
    if with_next_key:
        identity = replace(identity, next_key=new_key("ec-p256"))
        file.save(identity)
    loaded = file.load(A_TEST)
    assert loaded is not None
    assert key_bytes(loaded) == key_bytes(identity)
    assert replace(loaded, key=identity.key, next_key=identity.next_key) == identity


@pytest.mark.invariant(1)
def test_only_the_owner_can_read_it(file: IdentityFile, identity: AgentIdentity) -> None:
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert "PRIVATE" not in repr(identity)


@pytest.mark.usefixtures("identity")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_one_that_others_can_touch_is_refused(file: IdentityFile, what: str) -> None:
    (file.path if what == "file" else file.path.parent).chmod(0o755)
    with pytest.raises(CitadelError) as refused:
        file.load(A_TEST)
    assert refused.value.reason is Reason.FILE_UNSAFE


def changed(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps(json.loads(data) | changes).encode()


def without(name: str) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps({key: value for key, value in json.loads(data).items() if key != name}).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"\x00" * 4096,
        lambda _: b"[]",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        without("form"),
        without("svid"),
        without("private_key"),
        without("next_private_key"),
        without("bundle"),
        without("agent_api"),
        changed(form=2),
        changed(svid=""),
        changed(svid=1),
        changed(private_key="garbage"),
        changed(private_key=None),
        changed(private_key=to_pem(new_key("ec-p256")).decode()),
        changed(next_private_key="garbage"),
        changed(bundle=[]),
        changed(bundle={}),
        changed(agent_api="nowhere"),
    ],
)
@pytest.mark.usefixtures("identity")
def test_a_damaged_one_is_refused_with_what_to_do(file: IdentityFile, damage: Callable[[bytes], bytes]) -> None:
    file.path.write_bytes(damage(file.path.read_bytes()))
    with pytest.raises(FailedPrecondition) as refused:
        file.load(A_TEST)
    assert refused.value.reason is Reason.IDENTITY_CORRUPT
    assert str(file.path) in str(refused.value)
    assert "join again" in refused.value.fix
    assert "PRIVATE" not in str(refused.value)


@pytest.mark.parametrize("spiffe_id", ["spiffe://b.test/citadel/agent/n1", "spiffe://a.test/web"])
def test_one_of_another_trust_domain_or_kind_is_refused(
    file: IdentityFile, identity: AgentIdentity, authority: FakeAuthority, spiffe_id: str
) -> None:
    chain = authority.issue(spiffe_id, identity.key, now(), HOUR)
    file.save(replace(identity, svid=X509Svid.from_der(chain)))
    with pytest.raises(FailedPrecondition) as refused:
        file.load(A_TEST)
    assert refused.value.reason is Reason.IDENTITY_CORRUPT
    with pytest.raises(FailedPrecondition):
        file.load(TrustDomain("c.test"))


@pytest.mark.invariant(12)
def test_a_kill_at_any_instant_leaves_an_identity_that_fits_together(
    file: IdentityFile, identity: AgentIdentity, authority: FakeAuthority
) -> None:
    key = new_key("ec-p256")
    svid = X509Svid.from_der(authority.issue(AGENT, key, now(), HOUR))
    states = [identity, replace(identity, next_key=key), replace(identity, svid=svid, key=key)]
    seen = set()
    for round_ in range(20):
        child = os.fork()
        if child == 0:  # renews for ever, until it is killed
            try:
                while True:
                    for state in states:
                        file.save(state)
            finally:
                os._exit(1)
        time.sleep(0.003 + 0.001 * round_)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        loaded = file.load(A_TEST)
        assert loaded is not None
        seen.add(key_bytes(loaded))
    assert seen <= {key_bytes(state) for state in states}
    assert len(seen) > 1


async def test_two_changes_at_once_lose_nothing(file: IdentityFile, identity: AgentIdentity) -> None:
    own = OwnIdentity(current=identity, file=file)
    bundle, key = FakeAuthority(now(), "other").bundle, new_key("ec-p256")
    await asyncio.gather(own.change(bundle=bundle), own.change(next_key=key))
    loaded = file.load(A_TEST)
    assert loaded is not None
    assert own.current.bundle == loaded.bundle == bundle
    assert key_bytes(own.current) == key_bytes(loaded)


async def test_a_change_whose_caller_was_cancelled_is_whole_and_in_turn(
    file: IdentityFile, identity: AgentIdentity
) -> None:
    own = OwnIdentity(current=identity, file=file)
    bundle, key = FakeAuthority(now(), "other").bundle, new_key("ec-p256")
    first = asyncio.create_task(own.change(bundle=bundle))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    await own.change(next_key=key)
    loaded = file.load(A_TEST)
    assert loaded is not None
    assert (loaded.bundle, own.current.bundle) == (bundle, bundle)
    assert key_bytes(loaded) == key_bytes(own.current)


async def test_a_disk_that_refuses_changes_nothing(file: IdentityFile, identity: AgentIdentity) -> None:
    own = OwnIdentity(current=identity, file=IdentityFile(file.path.parent / "gone"))
    with pytest.raises(Unavailable) as refused:
        await own.change(next_key=new_key("ec-p256"))
    assert refused.value.reason is Reason.STORE_UNAVAILABLE
    assert own.current is identity
