"""Keys in Vault's Transit secrets engine: against the real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from structlog.testing import capture_logs

from ca.keys.kinds import AuthorityKey, AuthorityPublicKey, KeyKind, hash_for
from ca.keys.remote import RemoteKey
from ca.keys.sealing import KeyPurpose
from ca.keys.transit.manager import TransitKeyManager
from ca.keys.transit.naming import TransitNames
from ca.vault.client import VaultClient
from ca.vault.ports import Answer
from citadel.errors import CitadelError, FailedPrecondition, Reason, Unavailable
from tests.clock import FakeClock
from tests.openbao import OpenBao, new_openbao

TIMEOUT = timedelta(seconds=5)
MESSAGES = [f"message {number}".encode() for number in range(100)]

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    bao = new_openbao(tmp_path_factory.mktemp("openbao"))
    bao.mount("transit", "transit")
    yield bao
    bao.stop()


@dataclass
class Wire:
    """Passes calls on, counts them, and changes on demand what comes back: what stands between here and Vault."""

    vault: VaultClient
    written: list[str] = field(default_factory=list)
    changed: Callable[[str, Answer], Answer] = lambda _, answer: answer
    held: asyncio.Event | None = None

    async def read(self, path: str) -> Answer:
        return await self.vault.read(path)

    async def list(self, path: str) -> Answer:
        return await self.vault.list(path)

    async def write(self, path: str, data: Mapping[str, Any]) -> Answer:
        self.written.append(path)
        if self.held is not None:
            await self.held.wait()
        return self.changed(path, await self.vault.write(path, data))

    async def delete(self, path: str) -> None:
        await self.vault.delete(path)

    def trouble(self) -> CitadelError | None:
        return None

    @property
    def calls(self) -> int:
        """How many calls asked for signatures."""
        return sum("/sign/" in path for path in self.written)


@dataclass
class World:
    keys: TransitKeyManager
    wire: Wire

    def again(self, **others: Any) -> TransitKeyManager:
        """The manager of a server that started again."""
        return manager(self.wire, **others)


def manager(wire: Wire, *, prefix: str = "citadel", mount: str = "transit", **others: Any) -> TransitKeyManager:
    names = TransitNames(mount=mount, prefix=prefix)
    return TransitKeyManager(vault=wire, names=names, **{"timeout": TIMEOUT, "clock": FakeClock()} | others)


@asynccontextmanager
async def opened(bao: OpenBao, *policies: str, **others: Any) -> AsyncIterator[World]:
    client = bao.vault(bao.token(*policies) if policies else "")
    try:
        wire = Wire(client)
        yield World(manager(wire, **others), wire)
    finally:
        client.close()


@pytest.fixture
async def world(bao: OpenBao) -> AsyncIterator[World]:
    async with opened(bao) as world:
        yield world


def verify(key: AuthorityPublicKey, signature: bytes, message: bytes) -> None:
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, message, padding.PKCS1v15(), hash_for(key))
    else:
        key.verify(signature, message, ec.ECDSA(hash_for(key)))


def path_of(key_id: str, purpose: KeyPurpose = KeyPurpose.ISSUER) -> str:
    return f"transit/keys/citadel-{purpose}-{key_id.split('-')[1]}"


def trouble_of(keys: TransitKeyManager, key_id: str) -> CitadelError | None:
    """What the server says of this key, where it is in use."""
    found = keys.trouble([key_id])
    return found.error if found is not None else None


async def refusal(call: Any) -> CitadelError:
    with pytest.raises(CitadelError) as refused:
        await call
    return refused.value


MAKERS: Mapping[str, Callable[[], AuthorityKey]] = {
    KeyKind.EC_P256: lambda: ec.generate_private_key(ec.SECP256R1()),
    KeyKind.EC_P384: lambda: ec.generate_private_key(ec.SECP384R1()),
    KeyKind.RSA_2048: lambda: rsa.generate_private_key(65537, 2048),
    "rsa-3072": lambda: rsa.generate_private_key(65537, 3072),
    KeyKind.RSA_4096: lambda: rsa.generate_private_key(65537, 4096),
}


@pytest.mark.invariant(1)
@pytest.mark.parametrize("kind", KeyKind)
async def test_a_key_is_made_signs_and_is_deleted(bao: OpenBao, kind: KeyKind) -> None:
    async with opened(bao, kind=kind) as world:
        key_id = await world.keys.create(KeyPurpose.ISSUER)
        made = bao.root.read(path_of(key_id))["data"]
        assert not made["exportable"]
        assert not made["allow_plaintext_backup"]
        for keys in (world.keys, world.again()):
            key = await keys.signer(key_id, KeyPurpose.ISSUER)
            for message, signature in zip(MESSAGES[:3], await key.sign(MESSAGES[:3]), strict=True):
                verify(key.public_key(), signature, message)
        await world.keys.delete(key_id)
        assert bao.root.read(path_of(key_id)) is None
        await world.keys.delete(key_id)


@pytest.mark.parametrize("kind", MAKERS)
async def test_a_key_that_was_made_elsewhere_is_taken_in(world: World, kind: str) -> None:
    own = MAKERS[kind]()
    key = await world.keys.signer(await world.keys.adopt(own, KeyPurpose.ISSUER), KeyPurpose.ISSUER)
    [signature] = await key.sign([b"message"])
    verify(own.public_key(), signature, b"message")


async def test_a_key_that_vault_cannot_hold_is_not_taken_in(world: World) -> None:
    refused = await refusal(world.keys.adopt(ec.generate_private_key(ec.SECP521R1()), KeyPurpose.ISSUER))
    assert isinstance(refused, FailedPrecondition)
    assert "secp521r1" in refused.message


@pytest.mark.parametrize(
    ("purpose", "expected"),
    [
        (KeyPurpose.ROOT, "ecdsa-p384"),
        (KeyPurpose.ISSUER, "ecdsa-p384"),
        (KeyPurpose.RECORDS, "ecdsa-p256"),
        (KeyPurpose.JWT, "rsa-2048"),
    ],
)
async def test_the_kind_is_that_of_the_purpose(bao: OpenBao, purpose: KeyPurpose, expected: str) -> None:
    async with opened(bao, kind=KeyKind.EC_P384) as world:
        is_jwt = purpose is KeyPurpose.JWT
        key_id = await (world.keys.create_jwt(KeyKind.RSA_2048) if is_jwt else world.keys.create(purpose))
        assert bao.root.read(path_of(key_id, purpose))["data"]["type"] == expected


async def test_a_key_is_refused_for_another_purpose_prefix_or_name(world: World) -> None:
    key_id = await world.keys.create(KeyPurpose.ISSUER)
    for keys, purpose in ((world.keys, KeyPurpose.ROOT), (world.again(prefix="other"), KeyPurpose.ISSUER)):
        refused = await refusal(keys.signer(key_id, purpose))
        assert (type(refused), refused.reason) == (FailedPrecondition, Reason.VAULT_KEY_LOST)
    for bad in ("vault-../../sys/seal", "vault-", "0" * 32, key_id + "0"):
        assert (await refusal(world.keys.signer(bad, KeyPurpose.ISSUER))).reason is Reason.KEY_UNSEALABLE
        assert (await refusal(world.keys.delete(bad))).reason is Reason.KEY_UNSEALABLE


async def test_what_belongs_to_others_is_never_deleted(bao: OpenBao, world: World) -> None:
    key_id = await world.keys.create(KeyPurpose.ISSUER)
    await world.again(prefix="other").delete(key_id)
    assert bao.root.read(path_of(key_id)) is not None


async def test_many_messages_are_one_call(world: World) -> None:
    key = await world.keys.signer(await world.keys.create(KeyPurpose.ISSUER), KeyPurpose.ISSUER)
    for message, signature in zip(MESSAGES, await key.sign(MESSAGES), strict=True):
        verify(key.public_key(), signature, message)
    assert world.wire.calls == 1
    assert await key.sign([]) == []
    assert world.wire.calls == 1


async def test_more_than_fit_go_in_several_calls(bao: OpenBao) -> None:
    async with opened(bao, kind=KeyKind.RSA_2048) as world:
        hasty = world.again(timeout=timedelta(milliseconds=100))  # 20 of these fit
        key = await hasty.signer(await world.keys.create(KeyPurpose.ISSUER), KeyPurpose.ISSUER)
        for message, signature in zip(MESSAGES[:50], await key.sign(MESSAGES[:50]), strict=True):
            verify(key.public_key(), signature, message)
        assert world.wire.calls == 3


async def test_concurrent_singles_share_calls_and_who_gives_up_takes_nothing_from_others(world: World) -> None:
    key = await world.keys.signer(await world.keys.create(KeyPurpose.ISSUER), KeyPurpose.ISSUER)
    world.wire.held = asyncio.Event()
    waiting = [asyncio.create_task(_one(key, message)) for message in MESSAGES[:50]]
    await _until(lambda: world.wire.calls == 1)
    waiting += [asyncio.create_task(_one(key, message)) for message in MESSAGES[50:]]
    await asyncio.sleep(0)  # they have asked
    for early in (7, 70):  # under way, and waiting for the next call
        waiting[early].cancel()
    world.wire.held.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [number for number, outcome in enumerate(outcomes) if isinstance(outcome, BaseException)] == [7, 70]
    assert world.wire.calls == 2


async def _one(key: RemoteKey, message: bytes) -> None:
    [signature] = await key.sign([message])
    verify(key.public_key(), signature, message)


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0)


def _swapped(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*reversed(results)]


def _cut(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return results[1:]


def _damaged(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"signature": "vault:v1:AAAA"}, *results[1:]]


def _failed(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"error": "internal error"}, *results[1:]]


def _in_another_script(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"signature": "vault:v1:\N{GREEK SMALL LETTER ALPHA}"}, *results[1:]]


def _strange(results: list[dict[str, Any]]) -> list[Any]:
    return [None for _ in results]


@pytest.mark.parametrize("change", [_swapped, _cut, _damaged, _failed, _in_another_script, _strange])
async def test_what_does_not_verify_is_not_handed_out(
    world: World, change: Callable[[Sequence[Any]], list[Any]]
) -> None:
    key = await world.keys.signer(await world.keys.create(KeyPurpose.ISSUER), KeyPurpose.ISSUER)
    world.wire.changed = lambda _, answer: Answer(data={"batch_results": change(answer.data["batch_results"])})
    assert (await refusal(key.sign(MESSAGES[:4]))).reason is Reason.VAULT_REFUSED
    world.wire.changed = lambda _, answer: answer
    assert len(await key.sign(MESSAGES[:4])) == 4


async def test_one_that_fails_takes_nothing_from_the_others_of_its_call(world: World) -> None:
    key = await world.keys.signer(await world.keys.create(KeyPurpose.ISSUER), KeyPurpose.ISSUER)
    world.wire.held, world.wire.changed = (
        asyncio.Event(),
        lambda _, answer: Answer(data={"batch_results": _failed(answer.data["batch_results"])}),
    )
    first = asyncio.create_task(key.sign([b"alone"]))
    await _until(lambda: world.wire.calls == 1)
    pair = [asyncio.create_task(key.sign([message])) for message in MESSAGES[:2]]
    world.wire.held.set()
    outcomes = await asyncio.gather(first, *pair, return_exceptions=True)
    assert [isinstance(outcome, Unavailable) for outcome in outcomes] == [True, True, False]


async def test_a_key_that_was_rotated_signs_by_its_first_version(bao: OpenBao, world: World) -> None:
    key_id = await world.keys.create(KeyPurpose.ISSUER)
    before = await world.keys.signer(key_id, KeyPurpose.ISSUER)
    bao.write(f"{path_of(key_id)}/rotate")
    for keys in (world.keys, world.again()):
        key = await keys.signer(key_id, KeyPurpose.ISSUER)
        [signature] = await key.sign([b"message"])
        verify(before.public_key(), signature, b"message")


def _deleted(bao: OpenBao, path: str) -> None:
    bao.write(f"{path}/config", deletion_allowed=True)
    bao.root.delete(path)


def _soft_deleted(bao: OpenBao, path: str) -> None:
    bao.root.delete(f"{path}/soft-delete")


def _replaced(bao: OpenBao, path: str) -> None:
    _deleted(bao, path)
    bao.write(path, type="ecdsa-p256")


def _version_barred(bao: OpenBao, path: str) -> None:
    bao.write(f"{path}/rotate")
    bao.write(f"{path}/config", min_encryption_version=2)


def _version_gone(bao: OpenBao, path: str) -> None:
    _version_barred(bao, path)
    bao.write(f"{path}/config", min_decryption_version=2)


@pytest.mark.parametrize("lose", [_deleted, _soft_deleted, _replaced, _version_barred, _version_gone])
async def test_a_key_that_is_lost_is_told_as_that(
    bao: OpenBao, world: World, lose: Callable[[OpenBao, str], None]
) -> None:
    key_id = await world.keys.create(KeyPurpose.ISSUER)
    key = await world.keys.signer(key_id, KeyPurpose.ISSUER)
    lose(bao, path_of(key_id))
    refused = await refusal(key.sign([b"message"]))
    assert (type(refused), refused.reason) == (Unavailable, Reason.VAULT_KEY_LOST)
    assert trouble_of(world.keys, key_id) is refused
    for keys in (world.keys, world.again()):
        refused = await refusal(keys.signer(key_id, KeyPurpose.ISSUER))
        assert (type(refused), refused.reason) == (FailedPrecondition, Reason.VAULT_KEY_LOST)
        assert trouble_of(keys, key_id) is refused, "whoever opens it anew does not make it good"
    assert world.keys.trouble([]) is None, "nobody needs it"
    await world.keys.delete(key_id)
    assert trouble_of(world.keys, key_id) is None


TOO_SLOW = Unavailable(Reason.VAULT_UNAVAILABLE, "no answer in time")
NO_SUCH_MOUNT = Unavailable(Reason.VAULT_NOT_FOUND, "nothing is mounted there")
NO = Unavailable(Reason.VAULT_REFUSED, "no")


@pytest.mark.parametrize(("error", "is_told_at"), [(TOO_SLOW, 2), (NO_SUCH_MOUNT, 1), (NO, 1)])
async def test_a_key_that_does_not_sign_is_told_of_until_it_does(
    world: World, error: Unavailable, is_told_at: int
) -> None:
    """Though Vault is well, as far as anybody knows who only looks at the token."""
    clock = FakeClock()
    keys = world.again(clock=clock)
    key_id = await keys.create(KeyPurpose.ISSUER)
    key = await keys.signer(key_id, KeyPurpose.ISSUER)

    def fails(_: str, __: Answer) -> Answer:
        raise error

    with capture_logs() as logs:
        for _ in range(2):  # one that is slow now and then is never told of
            world.wire.changed = fails
            for number in range(1, 2 + is_told_at):
                assert trouble_of(keys, key_id) is (error if number > is_told_at else None)
                refused = await refusal(key.sign([b"message"]))
                assert (refused, refused.__cause__) == (error, None)
                clock.leap(10)
            found = keys.trouble([key_id])
            assert found is not None
            assert (found.purpose, clock.now() - found.since) == (KeyPurpose.ISSUER, timedelta(seconds=20))
            world.wire.changed = lambda _, answer: answer
            await key.sign([b"message"])
            assert trouble_of(keys, key_id) is None
    assert [log["event"] for log in logs] == ["a key in Vault signs nothing", "a key in Vault can be used again"]
    world.wire.changed = fails
    for _ in range(is_told_at):
        await refusal(key.sign([b"message"]))
    clock.leap(121)
    assert trouble_of(keys, key_id) is None, "nobody has asked it for long"


async def test_a_key_that_nobody_asks_to_sign_is_looked_at(bao: OpenBao, world: World) -> None:
    key_id, other = [await world.keys.create(KeyPurpose.ROOT) for _ in range(2)]
    keys = world.again()
    await keys.look(key_id, KeyPurpose.ROOT)
    bao.write(f"{path_of(key_id, KeyPurpose.ROOT)}/rotate")
    bao.write(f"{path_of(key_id, KeyPurpose.ROOT)}/config", min_encryption_version=2)
    _deleted(bao, path_of(other, KeyPurpose.ROOT))
    for each in (key_id, other):
        refused = await refusal(keys.look(each, KeyPurpose.ROOT))
        assert (refused.reason, "citadel-cli rotate root" in (refused.fix or "")) == (Reason.VAULT_KEY_LOST, True)
        assert trouble_of(keys, each) is refused
    bao.write(f"{path_of(key_id, KeyPurpose.ROOT)}/config", min_encryption_version=0)
    await keys.look(key_id, KeyPurpose.ROOT)
    assert trouble_of(keys, key_id) is None


async def test_the_worst_is_told_first(bao: OpenBao, world: World) -> None:
    made = {purpose: await world.keys.create(purpose) for purpose in (KeyPurpose.ROOT, KeyPurpose.ISSUER)}
    for purpose, key_id in made.items():
        _deleted(bao, path_of(key_id, purpose))
        await refusal(world.keys.look(key_id, purpose))
    for in_use, told in ((made.values(), KeyPurpose.ISSUER), ([made[KeyPurpose.ROOT]], KeyPurpose.ROOT)):
        found = world.keys.trouble([*in_use, "f" * 32])  # that one is sealed here
        assert found is not None
        assert found.purpose is told


async def test_a_key_that_may_be_used_again_signs_again(bao: OpenBao, world: World) -> None:
    key_id = await world.keys.create(KeyPurpose.ISSUER)
    key = await world.keys.signer(key_id, KeyPurpose.ISSUER)
    _version_barred(bao, path_of(key_id))
    await refusal(key.sign([b"message"]))
    bao.write(f"{path_of(key_id)}/config", min_encryption_version=0)
    await key.sign([b"message"])
    assert trouble_of(world.keys, key_id) is None


async def test_a_policy_that_is_taken_away_is_no_lost_key(bao: OpenBao) -> None:
    bao.root.sys.create_or_update_policy(
        "transit-all", 'path "transit/*" { capabilities = ["create","update","read"] }'
    )
    async with opened(bao, "transit-all") as world:
        key_id = await world.keys.create(KeyPurpose.ISSUER)
        key = await world.keys.signer(key_id, KeyPurpose.ISSUER)
        bao.root.sys.create_or_update_policy("transit-all", 'path "transit/keys/*" { capabilities = ["read"] }')
        refused = await refusal(key.sign([b"message"]))
        assert refused.reason is Reason.VAULT_DENIED
        assert trouble_of(world.keys, key_id) is refused


async def test_a_mount_that_is_not_there_is_no_lost_key(world: World) -> None:
    key_id = await world.keys.create(KeyPurpose.ISSUER)
    elsewhere = world.again(mount="nowhere")
    for call in (elsewhere.signer(key_id, KeyPurpose.ISSUER), elsewhere.create(KeyPurpose.ISSUER)):
        assert (await refusal(call)).reason is Reason.VAULT_NOT_FOUND


async def test_a_key_whose_making_was_not_heard_of_is_used_by_the_next_try(bao: OpenBao, world: World) -> None:
    """Each try would leave one behind else, as where making an RSA key takes longer than one answer may."""
    keys = world.again(prefix="unheard")

    def unheard(path: str, answer: Answer) -> Answer:  # noqa: ARG001 - whatever it is
        raise Unavailable(Reason.VAULT_UNAVAILABLE, "no answer in time")

    world.wire.changed = unheard
    for _ in range(3):
        assert (await refusal(keys.create(KeyPurpose.ISSUER))).reason is Reason.VAULT_UNAVAILABLE
    world.wire.changed = lambda _, answer: answer
    ids = {await keys.create(KeyPurpose.ISSUER) for _ in range(2)}
    made = [name for name in bao.root.list("transit/keys")["data"]["keys"] if name.startswith("unheard")]
    assert len(made) == len(ids) == 2


async def test_no_key_is_left_behind_where_vault_does_not_show_what_it_made(bao: OpenBao) -> None:
    bao.root.sys.create_or_update_policy(
        "transit-blind",
        'path "transit/keys/*" { capabilities = ["create","update","delete"] }'
        ' path "transit/wrapping_key" { capabilities = ["read"] }',
    )
    async with opened(bao, "transit-blind", prefix="blind") as world:
        for _ in range(3):
            assert (await refusal(world.keys.create(KeyPurpose.ISSUER))).reason is Reason.VAULT_DENIED
            own = MAKERS[KeyKind.EC_P256]()
            assert (await refusal(world.keys.adopt(own, KeyPurpose.ISSUER))).reason is Reason.VAULT_DENIED
        world.wire.held = asyncio.Event()
        making = asyncio.create_task(world.keys.create(KeyPurpose.ISSUER))
        await asyncio.sleep(0)
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        world.wire.held.set()
        assert (await refusal(world.keys.create(KeyPurpose.ISSUER))).reason is Reason.VAULT_DENIED
    assert sum(name.startswith("blind") for name in bao.root.list("transit/keys")["data"]["keys"]) == 1


@pytest.mark.parametrize("field", ["exportable", "allow_plaintext_backup", "auto_rotate_period", "type"])
async def test_a_key_that_vault_made_otherwise_is_not_used(bao: OpenBao, field: str) -> None:
    async with opened(bao) as world:
        wrong = {"exportable": True, "allow_plaintext_backup": True, "auto_rotate_period": "1h", "type": "ecdsa-p384"}
        real = world.wire.vault.write

        async def write(path: str, data: Mapping[str, Any]) -> Answer:
            return await real(path, {**data, field: wrong[field]})

        world.wire.write = write  # type: ignore[method-assign] # a Vault with a will of its own
        assert (await refusal(world.keys.create(KeyPurpose.ISSUER))).reason is Reason.VAULT_REFUSED
