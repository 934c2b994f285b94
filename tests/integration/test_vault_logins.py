"""The four ways to log in to Vault, and what is said where it does not let this server in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from citadel.errors import Reason
from tests.openbao import OpenBao, new_openbao
from tests.strangers import WebCa, put
from tests.token_review import running_token_review
from tests.vault_sessions import kept, refused, secret_in, token_in

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    bao = new_openbao(tmp_path_factory.mktemp("openbao"))
    bao.pki("pki")
    bao.policy("reads", {"pki/config/issuers": ["read"]})
    yield bao
    bao.stop()


async def test_by_a_token(bao: OpenBao, tmp_path: Path) -> None:
    async with kept(bao, token_in(tmp_path, bao.token("reads", ttl="1h"))) as one:
        await one.reads()
        assert one.session.login == "token"
        until = one.session.token_until
        assert until is not None
        assert timedelta(minutes=59) < until - one.clock.now() <= timedelta(hours=1)


async def test_by_approle(bao: OpenBao, tmp_path: Path) -> None:
    async with kept(bao, bao.approle("approle", tmp_path, "reads")) as one:
        await one.reads()


async def test_by_the_account_of_a_pod_whose_token_its_group_can_read(bao: OpenBao, tmp_path: Path) -> None:
    async with running_token_review() as review:
        file = secret_in(tmp_path / "jwt", review.account("citadel"))
        file.chmod(0o644)
        login = bao.kubernetes("kubernetes", file, review.port, "reads")
        async with kept(bao, login) as one:
            await one.reads()
        for other in (review.account("other"), f"{review.account('citadel')[:-4]}AAAA"):
            secret_in(file, other)
            async with kept(bao, login) as stranger:
                error = await refused(stranger.reads())
                assert error.reason is Reason.VAULT_LOGIN_REFUSED
                assert f"role server and the token in {file}, at auth/kubernetes" in error.message
                assert other not in error.message


def client_certificate(authority: WebCa, folder: Path, **changes: Any) -> tuple[Path, Path]:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])  # Vault calls its users by that
    return put(folder, authority.certificate("server", subject=subject, **changes))


async def test_by_a_certificate_that_is_shown_again_for_each_renewal(bao: OpenBao, tmp_path: Path) -> None:
    authority = WebCa()
    files = client_certificate(authority, tmp_path)
    login = bao.certificates("cert", authority.pem, files, "reads", token_ttl="300s")
    async with kept(bao, login, run=True) as one:
        await one.reads()
        await one.pass_by(205)
        assert (one.logins, one.session.acts["renewal", "ok"]) == (1, 1)
        client_certificate(authority, tmp_path)  # a new one, which the next log-in takes
        bao.root.auth.token.revoke(one.client.token)
        await one.reads()
        assert one.logins == 2
        client_certificate(authority, tmp_path, not_after=datetime.now(UTC) - timedelta(seconds=1))
        bao.root.auth.token.revoke(one.client.token)
        error = await refused(one.reads())
        assert error.reason is Reason.VAULT_LOGIN_REFUSED
        assert f"the certificate in {files[0]}, at auth/cert" in error.message


def with_role_id(login: dict[str, Any]) -> dict[str, Any]:
    return {"approle": login["approle"] | {"role_id": "nobody"}}


def with_mount(login: dict[str, Any]) -> dict[str, Any]:
    return {"approle": login["approle"] | {"mount": "elsewhere"}}


def with_a_secret_that_all_can_read(login: dict[str, Any]) -> dict[str, Any]:
    Path(login["approle"]["secret_id_file"]).chmod(0o644)
    return login


def with_an_empty_secret(login: dict[str, Any]) -> dict[str, Any]:
    secret_in(Path(login["approle"]["secret_id_file"]), "")
    return login


def with_two_lines(login: dict[str, Any]) -> dict[str, Any]:
    secret_in(Path(login["approle"]["secret_id_file"]), "one\ntwo")
    return login


def without_the_file(login: dict[str, Any]) -> dict[str, Any]:
    Path(login["approle"]["secret_id_file"]).unlink()
    return login


@pytest.mark.invariant(10)
@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        (with_role_id, "at auth/{mount}: Vault refuses `auth/{mount}/login` (400): invalid role or secret ID"),
        (with_mount, "at auth/elsewhere"),
        (with_a_secret_that_all_can_read, "{mount}-secret-id has mode 0644: others than its owner can access it"),
        (with_an_empty_secret, "{mount}-secret-id does not hold a secret in one line"),
        (with_two_lines, "{mount}-secret-id does not hold a secret in one line"),
        (without_the_file, "{mount}-secret-id cannot be opened: No such file or directory"),
    ],
)
async def test_what_is_wrong_with_a_login_is_said(
    bao: OpenBao, tmp_path: Path, spoilt: Callable[[dict[str, Any]], dict[str, Any]], words: str
) -> None:
    mount = spoilt.__name__.replace("_", "-")
    login = bao.approle(mount, tmp_path, "reads")
    secret = Path(login["approle"]["secret_id_file"]).read_text()
    async with kept(bao, spoilt(login)) as one:
        error = await refused(one.reads())
        assert error.reason is Reason.VAULT_LOGIN_REFUSED
        assert words.format(mount=mount) in error.message
        assert error.fix
        assert secret not in str(error)
        assert one.session.trouble() is error


async def test_in_a_namespace(bao: OpenBao, tmp_path: Path) -> None:
    bao.write("sys/namespaces/team")
    inside = bao.inside("team")
    inside.pki("pki")
    inside.policy("reads", {"pki/config/issuers": ["read"]})
    async with kept(bao, inside.approle("approle", tmp_path, "reads"), namespace="team") as one:
        await one.reads()
    async with kept(bao, token_in(tmp_path, bao.root.token), namespace="nowhere") as lost:
        error = await refused(lost.reads())
        assert error.reason is Reason.VAULT_NOT_FOUND, error
