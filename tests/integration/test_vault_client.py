"""Vault, or OpenBao, as it answers: against the real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from citadel.errors import Reason, Unavailable
from tests.openbao import OpenBao, new_openbao


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    bao = new_openbao(tmp_path_factory.mktemp("openbao"))
    yield bao
    bao.stop()


async def test_what_is_written_can_be_read_and_listed(bao: OpenBao) -> None:
    bao.pki("pki-written")
    vault = bao.vault()
    try:
        issuers = await vault.list("pki-written/issuers")
        [issuer_id] = issuers.data["keys"]
        assert (await vault.read(f"pki-written/issuer/{issuer_id}/json")).data["issuer_name"] == "first"
    finally:
        vault.close()


async def test_what_is_not_mounted_or_not_allowed_is_told_apart(bao: OpenBao) -> None:
    vault, nobody = bao.vault(), bao.vault(bao.token("default"))
    try:
        with pytest.raises(Unavailable) as refused:
            await vault.write("nowhere/sign", {})
        assert refused.value.reason is Reason.VAULT_NOT_FOUND
        with pytest.raises(Unavailable) as refused:
            await nobody.write("sys/mounts/new", {"type": "pki"})
        assert refused.value.reason is Reason.VAULT_DENIED
    finally:
        vault.close()
        nobody.close()
