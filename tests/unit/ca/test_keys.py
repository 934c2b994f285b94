"""Sealed keys: opened by the right key-encryption key under their own label, and by nothing else."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ca.keys.disk import DiskKeys
from ca.keys.kek import read_kek
from ca.keys.manager import SealedKeyManager
from ca.keys.sealing import KekSealer, KeyLabel, KeyPurpose, decode_kek
from ca.keys.settings import KeySettings
from ca.keys.split import SplitKeyManager
from citadel.config.files import write_private
from citadel.errors import CitadelError, FailedPrecondition, InvalidArgument, Reason, Unavailable
from citadel.spiffe import TrustDomain

KEK = bytes(range(32))
A_TEST = TrustDomain("a.test")
LABEL = KeyLabel(key_id="k1", purpose=KeyPurpose.ROOT, trust_domain=A_TEST)
PLAIN = b"a private key"


def manager(folder: Path, *, kek: bytes = KEK, trust_domain: TrustDomain = A_TEST) -> SealedKeyManager:
    return SealedKeyManager(keys=DiskKeys(folder), trust_domain=trust_domain, sealer=KekSealer(kek))


async def test_what_was_sealed_is_opened_under_the_same_label() -> None:
    assert await KekSealer(KEK).open(await KekSealer(KEK).seal(PLAIN, LABEL), LABEL) == PLAIN


async def test_the_plaintext_does_not_show_and_no_two_sealings_are_alike() -> None:
    first, second = await KekSealer(KEK).seal(PLAIN, LABEL), await KekSealer(KEK).seal(PLAIN, LABEL)
    assert PLAIN not in first
    assert first != second


@pytest.mark.parametrize(
    "label",
    [
        pytest.param(KeyLabel(key_id="k2", purpose=KeyPurpose.ROOT, trust_domain=A_TEST), id="another key id"),
        pytest.param(KeyLabel(key_id="k1", purpose=KeyPurpose.ISSUER, trust_domain=A_TEST), id="another purpose"),
        pytest.param(
            KeyLabel(key_id="k1", purpose=KeyPurpose.ROOT, trust_domain=TrustDomain("b.test")), id="another domain"
        ),
    ],
)
async def test_another_label_does_not_open_it(label: KeyLabel) -> None:
    with pytest.raises(FailedPrecondition) as refused:
        await KekSealer(KEK).open(await KekSealer(KEK).seal(PLAIN, LABEL), label)
    assert refused.value.reason is Reason.KEY_UNSEALABLE


async def test_another_key_encryption_key_does_not_open_it() -> None:
    with pytest.raises(FailedPrecondition):
        await KekSealer(bytes(32)).open(await KekSealer(KEK).seal(PLAIN, LABEL), LABEL)


async def test_a_change_anywhere_is_noticed() -> None:
    sealed = await KekSealer(KEK).seal(PLAIN, LABEL)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(FailedPrecondition):
            await KekSealer(KEK).open(bytes(changed), LABEL)


@pytest.mark.parametrize("length", [0, 5, 12, 27])
async def test_a_file_cut_short_is_noticed(length: int) -> None:
    with pytest.raises(FailedPrecondition):
        await KekSealer(KEK).open((await KekSealer(KEK).seal(PLAIN, LABEL))[:length], LABEL)


@pytest.mark.parametrize("kek", [b"", KEK[:-1], KEK + b"\0"])
def test_a_key_encryption_key_of_another_length_is_refused(kek: bytes) -> None:
    with pytest.raises(InvalidArgument) as refused:
        KekSealer(kek)
    assert refused.value.reason is Reason.KEY_UNSEALABLE


def test_no_error_and_no_repr_shows_the_key_encryption_key() -> None:
    with pytest.raises(InvalidArgument) as refused:
        decode_kek(b"not base64 but secret!")
    assert "secret" not in str(refused.value)
    assert repr(KekSealer(KEK)) == "KekSealer()"


@pytest.mark.invariant(1)
async def test_a_key_on_disk_is_sealed_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    keys = manager(folder)
    key_id = await keys.create(KeyPurpose.ROOT)
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    scalar = (await keys.signer(key_id, KeyPurpose.ROOT)).private_numbers().private_value.to_bytes(32, "big")
    assert scalar not in file.read_bytes()


async def test_a_key_survives_a_restart(tmp_path: Path) -> None:
    key_id = await manager(tmp_path / "keys").create(KeyPurpose.ISSUER)
    before = await manager(tmp_path / "keys").signer(key_id, KeyPurpose.ISSUER)
    after = await manager(tmp_path / "keys").signer(key_id, KeyPurpose.ISSUER)
    signature = before.sign(b"x", ec.ECDSA(hashes.SHA256()))
    after.public_key().verify(signature, b"x", ec.ECDSA(hashes.SHA256()))


async def test_a_renamed_file_is_not_taken_for_another_key(tmp_path: Path) -> None:
    keys = manager(tmp_path / "keys")
    first, second = await keys.create(KeyPurpose.ROOT), await keys.create(KeyPurpose.ROOT)
    (tmp_path / "keys" / f"{first}.sealed").replace(tmp_path / "keys" / f"{second}.sealed")
    with pytest.raises(FailedPrecondition) as refused:
        await keys.signer(second, KeyPurpose.ROOT)
    assert refused.value.reason is Reason.KEY_UNSEALABLE


@pytest.mark.parametrize(
    ("other", "purpose"),
    [
        ({"kek": bytes(32)}, KeyPurpose.ROOT),
        ({"trust_domain": TrustDomain("b.test")}, KeyPurpose.ROOT),
        ({}, KeyPurpose.ISSUER),
    ],
)
async def test_a_key_is_refused_to_whom_it_does_not_belong(
    tmp_path: Path, other: dict[str, object], purpose: KeyPurpose
) -> None:
    key_id = await manager(tmp_path / "keys").create(KeyPurpose.ROOT)
    with pytest.raises(FailedPrecondition):
        await manager(tmp_path / "keys", **other).signer(key_id, purpose)  # type: ignore[arg-type] # a table


async def test_a_missing_key_says_so_and_deleting_it_twice_is_no_error(tmp_path: Path) -> None:
    keys = manager(tmp_path / "keys")
    key_id = await keys.create(KeyPurpose.ROOT)
    await keys.delete(key_id)
    await keys.delete(key_id)
    with pytest.raises(FailedPrecondition) as refused:
        await keys.signer(key_id, KeyPurpose.ROOT)
    assert "cannot be read" in refused.value.message


async def test_a_disk_that_refuses_is_a_refusal_and_no_crash(tmp_path: Path) -> None:
    keys = manager(tmp_path / "keys")
    (tmp_path / "keys" / "stuck.sealed").mkdir(parents=True)
    (tmp_path / "keys").chmod(0o700)
    with pytest.raises(Unavailable) as refused:
        await keys.delete("stuck")
    assert refused.value.reason is Reason.STORE_UNAVAILABLE


def test_the_key_encryption_key_comes_from_a_private_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "kek"
    write_private(file, base64.b64encode(KEK) + b"\n")
    assert read_kek(KeySettings(kek_file=file), {}) == KEK
    assert read_kek(KeySettings(kek_env="KEK"), {"KEK": base64.b64encode(KEK).decode()}) == KEK


def test_a_key_encryption_key_that_others_can_read_or_that_is_missing_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "kek"
    write_private(file, base64.b64encode(KEK))
    file.chmod(0o640)
    for settings, reason in (
        (KeySettings(kek_file=file), Reason.FILE_UNSAFE),
        (KeySettings(kek_file=tmp_path / "none"), Reason.FILE_UNSAFE),
        (KeySettings(kek_env="KEK"), Reason.CONFIG_INVALID),
        (KeySettings(kek_env="NO_BASE64"), Reason.KEY_UNSEALABLE),
        (KeySettings(kek_env="SHORT"), Reason.KEY_UNSEALABLE),
    ):
        with pytest.raises(CitadelError) as refused:
            read_kek(settings, {"NO_BASE64": "s3cret!", "SHORT": "s3cr"})
        assert refused.value.reason is reason
        assert refused.value.message.startswith("keys.kek_file: " if settings.kek_file else "keys.kek_env: ")
        assert "s3cr" not in str(refused.value)


async def test_a_key_in_vault_is_not_looked_for_on_the_disk(tmp_path: Path) -> None:
    keys = SplitKeyManager(transit=None, sealed=manager(tmp_path / "keys"))
    own = await keys.create(KeyPurpose.ROOT)
    await keys.signer(own, KeyPurpose.ROOT)
    with pytest.raises(FailedPrecondition) as refused:
        await keys.signer(f"vault-{own}-0123456789abcdef01234567", KeyPurpose.ROOT)
    assert (refused.value.reason, refused.value.fix) == (Reason.KEY_UNSEALABLE, "set keys.vault_transit again")
