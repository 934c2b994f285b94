"""Staying logged in to Vault: against the real one, with time in the hands of the tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from hvac import exceptions as said
from structlog.testing import capture_logs

from citadel.errors import Reason
from tests.openbao import OpenBao, new_openbao
from tests.vault_sessions import kept, refused, secret_in, token_in

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    bao = new_openbao(tmp_path_factory.mktemp("openbao"))
    bao.pki("pki")
    bao.policy("reads", {"pki/config/issuers": ["read"]})
    yield bao
    bao.stop()


def is_known(bao: OpenBao, token: str | None) -> bool:
    try:
        bao.root.auth.token.lookup(token)
    except said.Forbidden:
        return False
    return True


async def test_one_login_is_for_all_who_ask_and_its_token_is_given_back(bao: OpenBao, tmp_path: Path) -> None:
    async with kept(bao, bao.approle("once", tmp_path, "reads")) as one:
        await asyncio.gather(*(one.reads() for _ in range(20)))
        assert (one.logins, one.session.acts["call", "ok"]) == (1, 20)
        token = one.client.token
        assert is_known(bao, token)
    assert not is_known(bao, token)


async def test_a_token_that_somebody_else_made_is_not_given_back(bao: OpenBao, tmp_path: Path) -> None:
    token = bao.token("reads")
    async with kept(bao, token_in(tmp_path, token)) as one:
        await one.reads()
    assert is_known(bao, token)


async def test_what_the_policy_does_not_allow_is_told_from_a_token_that_is_spent(bao: OpenBao, tmp_path: Path) -> None:
    async with kept(bao, bao.approle("denied", tmp_path, "reads")) as one:
        error = await refused(one.session.write("pki/root/sign-intermediate", {}))
        assert error.reason is Reason.VAULT_DENIED
        assert "`update` on `pki/root/sign-intermediate`" in error.message
        assert (one.logins, one.session.trouble(), one.session.worry()) == (1, None, error)
        bao.root.auth.token.revoke(one.client.token)
        await asyncio.gather(*(one.reads() for _ in range(5)))
        assert one.logins == 2


async def test_a_policy_that_is_taken_away_is_named_until_it_is_back(bao: OpenBao, tmp_path: Path) -> None:
    bao.policy("comes-and-goes", {"pki/config/issuers": ["read"]})
    with capture_logs() as logs:
        async with kept(bao, bao.approle("goes", tmp_path, "comes-and-goes")) as one:
            await one.reads()
            bao.policy("comes-and-goes", {})
            for _ in range(10):
                assert (await refused(one.reads())).reason is Reason.VAULT_DENIED
            assert one.logins == 1, "another token would not be allowed more"
            assert "`read` on `pki/config/issuers`" in str(one.session.worry())
            bao.policy("comes-and-goes", {"pki/config/issuers": ["read"]})
            await one.reads()
            assert one.session.worry() is None
    assert [log["event"] for log in logs] == ["trouble with Vault", "Vault serves this server again"]


async def test_many_paths_that_are_denied_are_a_line_a_minute_and_each_stands_until_it_is_allowed(
    bao: OpenBao, tmp_path: Path
) -> None:
    bao.policy("shrinks", {})
    with capture_logs() as logs:
        async with kept(bao, bao.approle("two-paths", tmp_path, "shrinks")) as one:
            for _ in range(20):
                assert (await refused(one.reads())).reason is Reason.VAULT_DENIED
                assert (await refused(one.session.list("pki/certs"))).reason is Reason.VAULT_DENIED
            assert len(logs) == 1
            bao.policy("shrinks", {"pki/config/issuers": ["read"]})
            await one.reads()
            assert "`list` on `pki/certs`" in str(one.session.worry())
            assert len(logs) == 1
            bao.policy("shrinks", {"pki/certs": ["list"]})
            await one.session.list("pki/certs")
            assert one.session.worry() is None
    assert [log["event"] for log in logs] == ["trouble with Vault", "Vault serves this server again"]


async def test_calls_that_are_denied_at_once_share_a_look_at_the_token(bao: OpenBao, tmp_path: Path) -> None:
    bao.policy("looks-once", {"auth/token/lookup-self": ["read"]})
    login = bao.approle("looks-once", tmp_path, "looks-once", token_no_default_policy=True, token_num_uses=35)
    async with kept(bao, login) as one:
        await one.session.log_in()
        # A use for each call, and what is left is by far not enough for as many looks.
        await asyncio.gather(*(refused(one.reads()) for _ in range(30)))
        assert one.logins == 1


@pytest.mark.parametrize("way", ["approle", "token"])
async def test_a_token_that_may_not_be_looked_at_any_more_is_used_while_it_lasts(
    bao: OpenBao, tmp_path: Path, way: str
) -> None:
    looks, reads = {"auth/token/lookup-self": ["read"]}, {"pki/config/issuers": ["read"]}
    policy = f"no-looks-{way}"
    bao.policy(policy, looks | reads)
    login = (
        bao.approle(policy, tmp_path, policy, token_no_default_policy=True, token_ttl="600s")
        if way == "approle"
        else token_in(tmp_path, bao.token(policy, no_default_policy=True, period="600s"))
    )
    async with kept(bao, login, run=True) as one:
        token = one.client.token
        bao.policy(policy, reads)
        await one.pass_by(100)
        assert one.session.worry() is not None
        for _ in range(3):
            await one.reads()
        denied = await refused(one.session.list("pki/certs"))
        assert denied.reason is (Reason.VAULT_DENIED if way == "approle" else Reason.VAULT_LOGIN_REFUSED)
        assert (denied, one.client.token) == (one.session.trouble(), token)
        await one.reads()  # what is allowed is asked all the same
        assert one.session.trouble() is None
        bao.policy(policy, looks | reads)
        await one.pass_by(60)
        assert one.session.worry() is None


async def test_what_was_denied_once_and_is_not_asked_again_is_no_worry_for_ever(bao: OpenBao, tmp_path: Path) -> None:
    async with kept(bao, bao.approle("asks-once", tmp_path, "reads"), run=True) as one:
        await refused(one.session.write("pki/root/sign-intermediate", {}))
        await one.pass_by(590)
        assert one.session.worry() is not None
        await one.pass_by(40)
        assert one.session.worry() is None


async def test_a_role_without_the_default_policy_is_told_what_it_lacks(bao: OpenBao, tmp_path: Path) -> None:
    login = bao.approle("bare", tmp_path, "reads", token_no_default_policy=True)
    async with kept(bao, login) as one:
        error = await refused(one.reads())
        assert error.reason is Reason.VAULT_DENIED
        assert "`read` on `auth/token/lookup-self`" in error.message
        assert "default" in error.fix


async def test_renews_at_two_thirds_of_the_lease(bao: OpenBao, tmp_path: Path) -> None:
    async with kept(bao, bao.approle("renews", tmp_path, "reads", token_ttl="300s"), run=True) as one:
        token = one.client.token
        await one.pass_by(195)
        assert one.session.acts["renewal", "ok"] == 0
        await one.pass_by(10)
        assert one.session.acts["renewal", "ok"] == 1
        await one.pass_by(205)
        assert one.session.acts["renewal", "ok"] == 2
        assert (one.client.token, one.logins) == (token, 1)


async def test_a_lease_that_shrinks_means_a_new_login_before_its_end(bao: OpenBao, tmp_path: Path) -> None:
    login = bao.approle("shrinks", tmp_path, "reads", token_ttl="6s", token_max_ttl="6s")
    async with kept(bao, login, run=True) as one:
        first = one.client.token
        # The longest life is by the clock of Vault, which cannot be moved.
        while bao.root.auth.token.lookup(first)["data"]["ttl"] > 3:
            await asyncio.sleep(0.1)
        await one.pass_by(4.5)
        assert one.session.acts["renewal", "ok"] == 1
        assert one.logins == 2
        assert (one.client.token != first, one.session.worry()) == (True, None)
        await one.reads()


async def test_a_batch_token_is_replaced_since_it_cannot_be_renewed(bao: OpenBao, tmp_path: Path) -> None:
    login = bao.approle("batch", tmp_path, "reads", token_type="batch", token_ttl="300s")
    async with kept(bao, login, run=True) as one:
        await one.pass_by(205)
        assert (one.logins, one.session.acts["renewal", "ok"]) == (2, 0)
        await one.reads()


async def test_a_token_without_an_end_is_left_alone(bao: OpenBao, tmp_path: Path) -> None:
    async with kept(bao, token_in(tmp_path, bao.root.token), run=True) as one:
        await one.pass_by(7200)
        assert (one.logins, one.session.token_until, one.session.worry()) == (1, None, None)
        assert one.session.acts["renewal", "ok"] == 0


async def test_a_periodic_token_is_renewed_for_ever(bao: OpenBao, tmp_path: Path) -> None:
    async with kept(bao, token_in(tmp_path, bao.token("reads", period="300s")), run=True) as one:
        await one.pass_by(990)
        assert (one.logins, one.session.worry()) == (1, None)
        assert one.session.acts["renewal", "ok"] == 4


async def test_a_token_in_a_file_that_ends_is_said_well_before_and_replaced_when_it_is_there(
    bao: OpenBao, tmp_path: Path
) -> None:
    login = token_in(tmp_path, bao.token("reads", type="batch", ttl="600s"))
    with capture_logs() as logs:
        async with kept(bao, login, run=True) as one:
            await one.pass_by(395)
            assert one.session.worry() is None
            await one.pass_by(10)
            worry = one.session.worry()
            assert worry is not None
            assert worry.reason is Reason.VAULT_LOGIN_REFUSED
            assert f"{tmp_path}/token cannot be renewed, and ends at 2026-01-01T00:" in worry.message
            assert one.session.trouble() is None
            await one.pass_by(50)
            await one.reads()
            secret_in(tmp_path / "token", bao.token("reads", period="600s"))
            await one.pass_by(35)
            assert one.session.worry() is None
            await one.reads()
    assert [log["log_level"] for log in logs] == ["error", "info"]


async def test_a_token_in_a_file_that_comes_to_its_longest_life_is_a_worry_to_its_end(
    bao: OpenBao, tmp_path: Path
) -> None:
    role = bao.approle("longest", tmp_path, "reads", token_ttl="300s")["approle"]
    secret = Path(role["secret_id_file"]).read_text()
    log_in = bao.root.auth.approle.login
    made = log_in(role["role_id"], secret, use_token=False, mount_point="longest")
    token = made["auth"]["client_token"]
    async with kept(bao, token_in(tmp_path, token), run=True) as one:
        bao.write("auth/longest/role/server", token_max_ttl="200s", token_policies=["reads"], token_ttl="200s")
        await one.pass_by(205)
        worry = one.session.worry()
        assert worry is not None
        assert "cannot be renewed" in worry.message
        for _ in range(12):
            await one.pass_by(5)  # each renewal gives all that is left, which is less than there was
            assert one.session.worry() is not None
        assert one.session.acts["renewal", "ok"] >= 3


async def test_a_token_in_a_file_that_was_revoked_is_said_and_the_next_one_taken(bao: OpenBao, tmp_path: Path) -> None:
    token = bao.token("reads")
    async with kept(bao, token_in(tmp_path, token), run=True) as one:
        await one.reads()
        bao.root.auth.token.revoke(token)
        error = await refused(one.reads())
        assert error.reason is Reason.VAULT_LOGIN_REFUSED
        assert str(tmp_path / "token") in error.message
        assert token not in error.message
        assert (await refused(one.reads())).reason is Reason.VAULT_LOGIN_REFUSED
        secret_in(tmp_path / "token", bao.token("reads"))
        await one.pass_by(60)
        await one.reads()


async def test_a_token_that_expired_while_nothing_was_asked_is_replaced_by_the_next_call(
    bao: OpenBao, tmp_path: Path
) -> None:
    async with kept(bao, bao.approle("idle", tmp_path, "reads", token_ttl="300s")) as one:
        await one.reads()
        await one.clock.advance(301)
        assert one.session.token_until is None
        await one.reads()
        assert one.logins == 2


async def test_a_wrong_secret_is_tried_less_and_less_and_a_good_one_taken_in_a_minute(
    bao: OpenBao, tmp_path: Path
) -> None:
    login = bao.approle("wrong", tmp_path, "reads")
    file = Path(login["approle"]["secret_id_file"])
    good = file.read_text()
    secret_in(file, "00000000-0000-0000-0000-000000000000")
    with capture_logs() as logs:
        async with kept(bao, login, run=True) as one:
            await one.pass_by(600)
            assert 11 <= one.session.acts["login", "vault_login_refused"] <= 16
            error = await refused(one.reads())
            assert error.reason is Reason.VAULT_LOGIN_REFUSED
            assert str(file) in error.message
            assert "00000000" not in error.message
            secret_in(file, good)
            await one.pass_by(60)
            await one.reads()  # Vault would have locked the role by now, had the wrong one been sent each time
    assert len(logs) <= 12


async def test_a_refused_login_takes_nothing_from_a_token_that_still_lasts(bao: OpenBao, tmp_path: Path) -> None:
    login = bao.approle("lasts", tmp_path, "reads", token_type="batch", token_ttl="300s")
    async with kept(bao, login, run=True) as one:
        secret_in(Path(login["approle"]["secret_id_file"]), "00000000-0000-0000-0000-000000000000")
        await one.pass_by(202)
        worry = one.session.worry()
        assert worry is not None
        assert worry.reason is Reason.VAULT_LOGIN_REFUSED
        assert one.session.trouble() is None
        await one.reads()
        before = one.session.acts["login", "vault_login_refused"]
        for _ in range(20):
            assert (await refused(one.session.list("pki/certs"))).reason is Reason.VAULT_DENIED
        assert one.session.acts["login", "vault_login_refused"] == before, "it is not their turn to try"
