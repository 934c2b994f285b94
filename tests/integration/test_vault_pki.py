"""A server whose root is in a real OpenBao: what it issues, what it trusts, and how both follow what is there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from grpc.aio import AioRpcError

from citadel._wire import rotation_pb2
from citadel.certification_path import extension_of
from citadel.errors import CitadelError
from citadel.wire import to_duration
from cli.server_process import run_server
from tests.children import child_of
from tests.integration.meshes import until
from tests.openbao import OpenBao, new_openbao
from tests.servers import http_status, reason_of, refusal, running_server
from tests.vault_pki import (
    default_of,
    delete_issuer_keys,
    has_ended,
    is_good,
    is_told,
    issuer_of,
    last_rotation,
    new_intermediate,
    new_root,
    server_under,
    settings_under,
    token_by,
    trusted,
    trusts,
    usage_of,
)

pytestmark = pytest.mark.integration

_ROOT = rotation_pb2.StartRotationRequest(kind="root")
_TIME_HAS_COME: Any = {"rotation": {"margin": "500ms", "window": "0s", "root_at": 1e-9}}
_EMERGENCY = rotation_pb2.StartRotationRequest(kind="root", emergency=True, deadline=to_duration(timedelta(seconds=1)))


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    bao = new_openbao(tmp_path_factory.mktemp("openbao"))
    yield bao
    bao.stop()


async def test_a_root_that_signs_in_vault_from_now_on_is_taken_through_a_rotation(bao: OpenBao, tmp_path: Path) -> None:
    mount = bao.pki("pki-followed")
    new_root(bao, mount, "second", key_type="rsa", key_bits=2048)
    new_root(bao, mount, "foreign", uri_sans="spiffe://b.test")
    new_root(bao, mount, "twin", common_name="Root first")
    token = token_by(bao, "upstream", mount)
    async with server_under(bao, mount, tmp_path, token=token) as server:
        status = await server.status()
        assert (status.upstream.kind, status.upstream.source, status.upstream.good) == ("vault", mount, True)
        assert await trusted(server) == {"CN=Root first", "CN=Root second"}
        assert await is_told(
            server, "issuer foreign", "is for spiffe://b.test", "issuer twin", "name of another root"
        )()
        issuer = issuer_of(await server.join("node-1"))
        assert issuer.issuer.rfc4514_string() == "CN=Root first"
        assert extension_of(issuer, x509.BasicConstraints) == x509.BasicConstraints(ca=True, path_length=0)
        with pytest.raises(AioRpcError, match=f"vault write {mount}/root/rotate/internal") as refused:
            await server.rotations().StartRotation(_ROOT)
        assert reason_of(refused.value) == "upstream_decides"

        bao.write(f"{mount}/root/replace", default="second")
        await until("the rotation has ended", has_ended(server, "root"), seconds=20)
        assert (await last_rotation(server)).started_by == "server"
        assert issuer_of(await server.join("node-2")).issuer.rfc4514_string() == "CN=Root second"
        assert await trusted(server) == {"CN=Root first", "CN=Root second"}  # other clusters may be under the first

        bao.root.sys.disable_secrets_engine(mount)
        await until("nothing is found there", is_told(server, "vault_not_found"), seconds=5)
        assert issuer_of(await server.join("node-3")).issuer.rfc4514_string() == "CN=Root second"
        assert await trusted(server) == {"CN=Root first", "CN=Root second"}


async def test_the_root_is_rotated_from_here_where_the_policy_allows_it(bao: OpenBao, tmp_path: Path) -> None:
    mount, keys = bao.pki("pki-rotated"), {"authorities": {"key": "ec-p384"}}
    words = {"token": token_by(bao, "upstream-rotate-root", mount), "alone": True, "rotate_root": True}
    async with server_under(bao, mount, tmp_path, **words, sections=keys) as server:
        for wish in (
            _ROOT,
            rotation_pb2.StartRotationRequest(kind="root", emergency=True, deadline=to_duration(timedelta(seconds=1))),
        ):
            old, before = default_of(bao, mount), await trusted(server)
            begun = await server.rotations().StartRotation(wish)
            await until("the rotation has ended", has_ended(server, "root"), seconds=20)
            assert (await last_rotation(server)).id == begun.id
            await until("all is well there", is_good(server), seconds=5)
            assert default_of(bao, mount) == f"citadel-{begun.new_authority}"
            assert usage_of(bao, mount, old) == {"read-only", "crl-signing"}
            assert not before & await trusted(server)
            assert len(await trusted(server)) == 1
        new_root(bao, mount, "by hand", issuer_name="by-hand")
        bao.write(f"{mount}/root/replace", default="by-hand")
        await until("what somebody did there is taken", trusts(server, "CN=Root by hand"), seconds=20)
        issuer = issuer_of(await server.join("node-1"))
        assert isinstance(key := issuer.public_key(), ec.EllipticCurvePublicKey)
        assert (key.curve.name, {issuer.issuer.rfc4514_string()}) == ("secp384r1", await trusted(server))


async def test_a_tainted_root_is_never_trusted_again_and_a_right_that_is_lost_adds_no_trust(
    bao: OpenBao, tmp_path: Path
) -> None:
    mount = bao.pki("pki-tainted")
    new_root(bao, mount, "spare")
    bao.write(f"{mount}/issuer/spare", issuer_name="spare", usage="read-only,crl-signing")
    token_by(bao, "upstream-rotate-root", mount)
    token = bao.token(mount)
    async with server_under(bao, mount, tmp_path, token=token, alone=True, rotate_root=True) as server:
        assert await trusted(server) == {"CN=Root first"}
        await server.rotations().StartRotation(_EMERGENCY)
        await until("the rotation has ended", has_ended(server, "root"), seconds=20)
        new = await trusted(server)
        await until("all is well", is_good(server), seconds=5)
        bao.policy(mount, {f"{mount}/issuer/+/sign-intermediate": ["update"]})
        await until("the right is lost", is_told(server, "the root cannot be rotated from here"), seconds=5)
        assert await trusted(server) == new
        assert len(new) == 1
    async with server_under(bao, mount, tmp_path, token=token, alone=True) as server:
        await until("it is told", is_told(server, "issuer spare", "the policy hides its usage"), seconds=5)
        assert await trusted(server) == new
    async with server_under(bao, mount, tmp_path, token=token) as server:
        await until("it is told", is_told(server, "upstream_invalid", "CN=Root first, a tainted root"), seconds=5)
        assert await trusted(server) == {*new, "CN=Root spare"}  # which may be for other clusters


async def test_a_root_whose_time_has_come_is_rotated_by_itself(bao: OpenBao, tmp_path: Path) -> None:
    mount, words = bao.pki("pki-by-time"), {"alone": True, "rotate_root": True, "sections": _TIME_HAS_COME}
    async with server_under(bao, mount, tmp_path, **words) as server:
        await until("the rotation has ended", has_ended(server, "root"), seconds=20)
        assert default_of(bao, mount) == f"citadel-{(await last_rotation(server)).new_authority}"


async def test_where_the_policy_does_not_allow_it_nothing_is_half_done(bao: OpenBao, tmp_path: Path) -> None:
    mount = bao.pki("pki-denied")
    token = token_by(bao, "upstream", mount)
    words = {"alone": True, "rotate_root": True, "sections": _TIME_HAS_COME}
    async with server_under(bao, mount, tmp_path, token=token, **words) as server:
        assert await is_told(server, "the root cannot be rotated from here")()
        await server.rotations().StartRotation(_ROOT)
        await until("it is told", is_told(server, "vault_denied", f"update on {mount}/root/rotate/internal"), seconds=5)
        await server.rotations().AbortRotation(rotation_pb2.AbortRotationRequest())
        await until("it is undone", has_ended(server, "root", "aborted"), seconds=5)
        assert (await trusted(server), default_of(bao, mount)) == ({"CN=Root first"}, "first")
        assert len(bao.root.list(f"{mount}/issuers")["data"]["keys"]) == 1
        await server.rotations().StartRotation(rotation_pb2.StartRotationRequest(kind="issuer"))
        await until("issuing authorities rotate still", has_ended(server, "issuer"), seconds=10)

        bao.policy(mount, {"sys/capabilities-self": ["update"], "auth/token/lookup-self": ["read"]})
        lacks = f"update on {mount}/issuer/{bao.root.read(f'{mount}/issuer/first')['data']['issuer_id']}"
        await until("it is told in time", is_told(server, "vault_denied", f"{lacks}/sign-intermediate"), seconds=10)
        status, said = await http_status(server.settings.listen.probes, "/ready")
        assert (status, lacks in said) == (200, True)


@pytest.mark.parametrize(
    ("lifetime", "longest", "told"),
    [("10m", "87600h", ("not 7d", "what signs in Vault ends")), ("8760h", "2h", ("for 2h", "max_lease_ttl"))],
    ids=["a root that ends soon", "a mount with a short limit"],
)
async def test_what_vault_shortens_is_taken_and_shown(
    bao: OpenBao, tmp_path: Path, lifetime: str, longest: str, told: tuple[str, ...]
) -> None:
    mount = bao.pki(f"pki-short-{longest}-{lifetime}", lifetime=lifetime)
    bao.root.sys.tune_mount_configuration(mount, max_lease_ttl=longest)
    async with server_under(bao, mount, tmp_path) as server:
        await until("it is told", is_told(server, *told), seconds=5)
        notes = " ".join((await server.status()).upstream.notes)
        assert "authority information access" not in notes
        assert "Max path length" not in notes
        leaf, issuer = map(x509.load_der_x509_certificate, (await server.join("node-1")).chain)
        [root] = server.bundle.x509_authorities
        assert leaf.not_valid_after_utc <= issuer.not_valid_after_utc < root.not_valid_after_utc
    async with server_under(bao, mount, tmp_path) as server:
        await until("it is told after a restart", is_told(server, *told), seconds=5)


async def test_constraints_are_in_what_is_signed(bao: OpenBao, tmp_path: Path) -> None:
    mount = bao.pki("pki-constrained")
    async with server_under(bao, mount, tmp_path, constrained=True) as server:
        issuer = issuer_of(await server.join("node-1"))
        constraints = issuer.extensions.get_extension_for_class(x509.NameConstraints)
        assert constraints.critical
        assert constraints.value.permitted_subtrees == [x509.UniformResourceIdentifier("a.test")]


async def test_a_rotation_that_waits_for_a_root_that_is_gone_makes_way_for_the_new_one(
    bao: OpenBao, tmp_path: Path
) -> None:
    mount = bao.pki("pki-gone")
    async with server_under(bao, mount, tmp_path) as server:
        new_root(bao, mount, "second")
        bao.root.delete(f"{mount}/issuer/first")
        await until("nothing signs there", is_told(server, "no default issuer"), seconds=5)
        await server.rotations().StartRotation(rotation_pb2.StartRotationRequest(kind="issuer"))
        bao.write(f"{mount}/root/replace", default="second")
        await until("the root is rotated", has_ended(server, "root"), seconds=20)
        assert await trusted(server) == {"CN=Root second"}
        assert issuer_of(await server.join("node-1")).issuer.rfc4514_string() == "CN=Root second"


async def test_a_start_without_the_key_of_what_signed_has_another_authority_signed(
    bao: OpenBao, tmp_path: Path
) -> None:
    mount, transit = bao.pki("pki-key-lost"), bao.mount("transit", "key-lost")
    keys = {"keys": {"vault_transit": {"mount": transit}}}
    settings = settings_under(bao, mount, tmp_path, alone=True, sections=keys)
    async with running_server(settings) as server:
        first = issuer_of(await server.join("node-1"))
    delete_issuer_keys(bao, transit)
    async with running_server(settings) as server:
        second = issuer_of(await server.join("node-2"))
        assert (second != first, second.issuer) == (True, first.issuer)
    delete_issuer_keys(bao, transit)  # and the root was rotated, as where a backup is restored that is older
    new_root(bao, mount, "second")
    bao.write(f"{mount}/root/replace", default="second")
    bao.write(f"{mount}/issuer/first", issuer_name="first", usage="read-only,crl-signing")
    async with running_server(settings) as server:
        assert issuer_of(await server.join("node-3")).issuer.rfc4514_string() == "CN=Root second"
        assert "CN=Root first" in await trusted(server)  # what it signed before lives on


async def test_an_intermediate_signs_and_its_successor_is_taken_by_a_rotation(bao: OpenBao, tmp_path: Path) -> None:
    above, mount = bao.pki("pki-above", name="above"), bao.mount("pki", "pki-below")
    first = new_intermediate(bao, mount, "one", above=above)
    second = new_intermediate(bao, mount, "two", above=above)
    bao.write(f"{mount}/config/issuers", default=first)
    async with server_under(bao, mount, tmp_path) as server:
        member = await server.join("node-1")
        between = [x509.load_der_x509_certificate(each).subject.rfc4514_string() for each in member.chain[2:]]
        assert (between, await trusted(server)) == (["CN=Intermediate one"], {"CN=Root above"})
        bao.write(f"{mount}/config/issuers", default=second)
        await until("the rotation has ended", has_ended(server, "issuer"), seconds=20)
        member = await server.join("node-2")
        assert issuer_of(member).issuer.rfc4514_string() == "CN=Intermediate two"
        child = await (await child_of(server, member)).sign()
        assert [each.subject.rfc4514_string() for each in child.chain[1:]] == ["CN=Intermediate two"]
        assert child.root == server.bundle.x509_authorities[0]


async def test_the_issuer_that_is_named_signs_whatever_the_default_is(bao: OpenBao, tmp_path: Path) -> None:
    mount = bao.pki("pki-pinned")
    new_root(bao, mount, "second")
    async with server_under(bao, mount, tmp_path, issuer="second") as server:
        assert issuer_of(await server.join("node-1")).issuer.rfc4514_string() == "CN=Root second"
        bao.write(f"{mount}/root/replace", default="second")
        bao.write(f"{mount}/root/replace", default="first")
        assert (await refusal(server.rotations().StartRotation(_ROOT)))[1] == "upstream_decides"


async def test_a_server_with_a_root_of_its_own_moves_to_vault_by_a_rotation(bao: OpenBao, tmp_path: Path) -> None:
    mount = bao.pki("pki-moved")
    settings = settings_under(bao, mount, tmp_path)
    before = settings.model_copy(update={"upstream": type(settings.upstream)()})
    async with running_server(before) as server:
        own = await trusted(server)
    async with running_server(settings) as server:
        await until("the rotation has ended", has_ended(server, "root"), seconds=20)
        assert await trusted(server) == {"CN=Root first"} != own
        assert issuer_of(await server.join("node-1")).issuer.rfc4514_string() == "CN=Root first"


@pytest.mark.parametrize(
    ("named", "policy", "reason", "words"),
    [
        ({"mount": "nowhere"}, "", "vault_not_found", "no PKI engine at nowhere"),
        ({"mount": "nowhere"}, "default", "vault_not_found", "no PKI engine at nowhere"),
        ({"issuer": "nobody"}, "", "vault_not_found", "compare upstream.vault.issuer"),
        ({}, "default", "vault_denied", "sign-intermediate"),
        ({"issuer": "foreign"}, "", "upstream_invalid", "is for spiffe://b.test"),
        ({"issuer": "short"}, "", "upstream_invalid", "path length 0"),
    ],
    ids=[
        "no mount",
        "no mount and no rights",
        "no issuer",
        "no policy",
        "an issuer of others",
        "an issuer that may sign no authority",
    ],
)
async def test_a_first_start_that_cannot_go_well_is_refused_with_what_to_do(
    bao: OpenBao, tmp_path: Path, named: dict[str, str], policy: str, reason: str, words: str
) -> None:
    if not bao.root.sys.list_mounted_secrets_engines()["data"].get("pki-refused/"):
        bao.pki("pki-refused")
        new_root(bao, "pki-refused", "foreign", uri_sans="spiffe://b.test")
        new_root(bao, "pki-refused", "short", max_path_length=0)
    token = bao.token(policy) if policy else ""
    settings = settings_under(bao, named.pop("mount", "pki-refused"), tmp_path, token=token, **named)
    with pytest.raises(CitadelError) as refused:
        await run_server(settings, stop=asyncio.Event())
    assert refused.value.reason.value == reason
    assert words in str(refused.value)
