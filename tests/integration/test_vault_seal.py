"""Keys sealed with a key in Vault: against the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ca.keys.disk import DiskKeys
from ca.keys.forms import SealerByForm
from ca.keys.manager import SealedKeyManager, Sealer
from ca.keys.sealing import KekSealer, KeyLabel, KeyPurpose
from ca.keys.transit.sealer import VaultSealer
from ca.vault.client import VaultClient
from citadel.errors import CitadelError, FailedPrecondition, Reason, Unavailable
from citadel.spiffe import TrustDomain
from tests.openbao import OpenBao, new_openbao

A_TEST = TrustDomain("a.test")
LABEL = KeyLabel(key_id="k1", purpose=KeyPurpose.ROOT, trust_domain=A_TEST)
PLAIN = b"a private key"
KEK = bytes(range(32))

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    bao = new_openbao(tmp_path_factory.mktemp("openbao"))
    bao.mount("transit", "transit")
    yield bao
    bao.stop()


@pytest.fixture
async def vault(bao: OpenBao) -> AsyncIterator[VaultClient]:
    vault = bao.vault()
    yield vault
    vault.close()


@pytest.fixture
def key(bao: OpenBao, request: pytest.FixtureRequest) -> str:
    """The name of a key of this test's own."""
    name = f"seal-{abs(hash(request.node.nodeid))}"
    bao.write(f"transit/keys/{name}", type="aes256-gcm96")
    return name


BACKUP = replace(LABEL, purpose=KeyPurpose.BACKUP)


def sealer(vault: VaultClient, key: str, *, mount: str = "transit") -> VaultSealer:
    return VaultSealer(vault=vault, mount=mount, key=key)


def manager(folder: Path, sealer: Sealer, *, trust_domain: TrustDomain = A_TEST) -> SealedKeyManager:
    return SealedKeyManager(keys=DiskKeys(folder), trust_domain=trust_domain, sealer=sealer)


async def refusal(call: Any) -> CitadelError:
    with pytest.raises(CitadelError) as refused:
        await call
    return refused.value


@pytest.mark.invariant(1)
async def test_a_sealed_key_survives_a_restart_and_shows_nothing(vault: VaultClient, key: str, tmp_path: Path) -> None:
    key_id = await manager(tmp_path / "keys", sealer(vault, key)).create(KeyPurpose.ISSUER)
    again = await manager(tmp_path / "keys", sealer(vault, key)).signer(key_id, KeyPurpose.ISSUER)
    (file,) = (tmp_path / "keys").iterdir()
    scalar = again.private_numbers().private_value  # type: ignore[union-attr] # P-256 is what is made
    assert scalar.to_bytes(32, "big") not in file.read_bytes()


async def test_no_two_have_one_data_key(vault: VaultClient, key: str) -> None:
    used = sealer(vault, key)
    wrapped = {(await used.seal(PLAIN, LABEL)).split(b"\n")[1] for _ in range(3)}
    assert len(wrapped) == 3


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
async def test_another_label_does_not_open_it(vault: VaultClient, key: str, label: KeyLabel) -> None:
    sealed = await sealer(vault, key).seal(PLAIN, LABEL)
    refused = await refusal(sealer(vault, key).open(sealed, label))
    assert (type(refused), refused.reason) == (FailedPrecondition, Reason.KEY_UNSEALABLE)


async def test_a_change_anywhere_is_noticed(vault: VaultClient, key: str) -> None:
    used = sealer(vault, key)
    sealed = await used.seal(PLAIN, LABEL)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        opened = SealerByForm(kek=KekSealer(KEK), vault=used).open(bytes(changed), LABEL)
        assert (await refusal(opened)).reason is Reason.KEY_UNSEALABLE
    for length in (0, 10, 30, len(sealed) - 1):
        assert (await refusal(used.open(sealed[:length], LABEL))).reason is Reason.KEY_UNSEALABLE


async def test_another_key_in_vault_does_not_open_it(bao: OpenBao, vault: VaultClient, key: str) -> None:
    bao.write("transit/keys/other", type="aes256-gcm96")
    refused = await refusal(sealer(vault, "other").open(await sealer(vault, key).seal(PLAIN, LABEL), LABEL))
    assert (type(refused), refused.reason) == (FailedPrecondition, Reason.KEY_UNSEALABLE)


async def test_what_was_opened_once_can_be_opened_while_vault_is_away(vault: VaultClient, key: str) -> None:
    sealed = await sealer(vault, key).seal(PLAIN, LABEL)
    used = sealer(vault, key)
    await used.open(sealed, LABEL)
    new = await used.seal(PLAIN, LABEL)
    backup = await used.seal(PLAIN, BACKUP)
    vault.token = "nobody's"
    assert await used.open(sealed, LABEL) == PLAIN
    assert await used.open(new, LABEL) == PLAIN
    assert (await refusal(used.open(backup, BACKUP))).reason is Reason.VAULT_DENIED, "its data key is not kept"
    assert (await refusal(sealer(vault, key).open(sealed, LABEL))).reason is Reason.VAULT_DENIED


async def test_a_seal_that_was_rotated_opens_what_it_sealed(bao: OpenBao, vault: VaultClient, key: str) -> None:
    sealed = await sealer(vault, key).seal(PLAIN, LABEL)
    bao.write(f"transit/keys/{key}/rotate")
    assert await sealer(vault, key).open(sealed, LABEL) == PLAIN
    assert b"vault:v2:" in await sealer(vault, key).seal(PLAIN, LABEL)


def _deleted(bao: OpenBao, path: str) -> None:
    bao.write(f"{path}/config", deletion_allowed=True)
    bao.root.delete(path)


def _soft_deleted(bao: OpenBao, path: str) -> None:
    bao.root.delete(f"{path}/soft-delete")


def _version_barred(bao: OpenBao, path: str) -> None:
    bao.write(f"{path}/rotate")
    bao.write(f"{path}/config", min_decryption_version=2)


@pytest.mark.parametrize("lose", [_deleted, _soft_deleted, _version_barred])
async def test_a_seal_that_is_lost_is_told_as_that(
    bao: OpenBao, vault: VaultClient, key: str, lose: Callable[[OpenBao, str], None]
) -> None:
    sealed = await sealer(vault, key).seal(PLAIN, LABEL)
    lose(bao, f"transit/keys/{key}")
    used = sealer(vault, key)
    refused = await refusal(used.open(sealed, LABEL))
    assert (type(refused), refused.reason) == (FailedPrecondition, Reason.VAULT_KEY_LOST)
    assert used.lost is refused


@pytest.mark.parametrize(
    ("mount", "name", "reason"),
    [("transit", "nothing", Reason.VAULT_KEY_LOST), ("nowhere", "seal", Reason.VAULT_NOT_FOUND)],
)
async def test_a_seal_that_is_not_there_is_told(vault: VaultClient, mount: str, name: str, reason: Reason) -> None:
    assert (await refusal(sealer(vault, name, mount=mount).seal(PLAIN, LABEL))).reason is reason


async def test_what_a_key_encryption_key_sealed_is_opened_by_it_beside_the_seal(
    vault: VaultClient, key: str, tmp_path: Path
) -> None:
    kek, by_vault = KekSealer(KEK), sealer(vault, key)
    both, folder = SealerByForm(kek=kek, vault=by_vault), tmp_path / "keys"
    vault_only, kek_only = SealerByForm(kek=None, vault=by_vault), SealerByForm(kek=kek, vault=None)
    old = await manager(folder, kek).create(KeyPurpose.ROOT)
    before = (folder / f"{old}.sealed").read_bytes()
    await manager(folder, both).signer(old, KeyPurpose.ROOT)
    new = await manager(folder, both).create(KeyPurpose.ROOT)
    assert (folder / f"{old}.sealed").read_bytes() == before
    await manager(folder, vault_only).signer(new, KeyPurpose.ROOT)
    for only, key_id, setting in ((vault_only, old, "kek_file"), (kek_only, new, "vault_seal")):
        refused = await refusal(manager(folder, only).signer(key_id, KeyPurpose.ROOT))
        assert (refused.reason, setting in refused.fix) == (Reason.KEY_UNSEALABLE, True)


async def test_without_anything_to_seal_with_it_says_what_to_set() -> None:
    refused = await refusal(SealerByForm(kek=None, vault=None).seal(PLAIN, LABEL))
    assert "keys.vault_seal" in refused.fix
    assert not isinstance(refused, Unavailable)
