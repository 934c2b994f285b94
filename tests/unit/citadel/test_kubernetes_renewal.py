"""What opens the way to an API server is read anew while it is used: tokens, authorities, certificates and commands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from citadel.errors import Reason, Unavailable
from citadel.kubernetes.client import KubernetesClient
from citadel.kubernetes.renewal import Session, renewal
from citadel.kubernetes.settings import ApiServerSettings
from tests.kube_script import ScriptedApi, answer, event, scripted_api, watch
from tests.strangers import WebCa, pem_of

THINGS: Final = "/api/v1/things"
ALONE: Final = {"Connection": "close"}  # so that the next call makes a connection of its own


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@asynccontextmanager
async def connected(clock: list[float], path: Path | None, **more: Any) -> AsyncIterator[KubernetesClient]:
    client = KubernetesClient(await renewal(ApiServerSettings(kubeconfig=path), now=lambda: clock[0], **more))
    try:
        yield client
    finally:
        await client.close()


def tokens(api: ScriptedApi) -> list[str]:
    lines = [line for each in api.requests for line in each.splitlines() if line.lower().startswith("authorization:")]
    return [line.split()[-1] for line in lines]


class TestTokens:
    async def test_the_token_of_a_service_account_is_read_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: list[float]
    ) -> None:
        account = tmp_path / "account"
        account.mkdir()
        async with scripted_api(tmp_path) as api:
            api.last = answer(200, {})
            (account / "ca.crt").write_bytes(api.ca.pem)
            (account / "token").write_text("first")
            monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
            async with connected(clock, None, account=account) as client:
                await client.get(THINGS)
                (account / "token").write_text("second")
                await client.get(THINGS)
                clock[0] += 61
                await client.get(THINGS)
                (account / "token").unlink()
                clock[0] += 61
                await client.get(THINGS)
                assert "the service account" in str(client.renewal.trouble)
        assert tokens(api) == ["first", "first", "second", "second"]

    async def test_a_kubeconfig_is_read_anew(self, tmp_path: Path, clock: list[float]) -> None:
        async with scripted_api(tmp_path) as api:
            api.last = answer(200, {})
            async with connected(clock, api.kubeconfig(token="first")) as client:
                await client.get(THINGS)
                api.kubeconfig(token="second")
                clock[0] += 301
                await client.get(THINGS)
                api.kubeconfig(token="third", server="https://127.0.0.1:1")
                clock[0] += 301
                await client.get(THINGS)  # the token of another API server is not sent to this one
                assert "another API server; restart for it" in str(client.renewal.trouble)
        assert tokens(api) == ["first", "second", "second"]

    async def test_a_token_that_is_refused_is_read_anew_at_once_and_the_call_asked_again(
        self, tmp_path: Path, clock: list[float]
    ) -> None:
        async with scripted_api(tmp_path, answer(401, {"message": "who?"}), answer(200, {"a": 1})) as api:
            path = api.kubeconfig(token="first")
            async with connected(clock, path) as client:
                api.kubeconfig(token="second")
                assert await client.create(THINGS, {}) == {"a": 1}
        assert tokens(api) == ["first", "second"]

    async def test_a_line_at_the_end_of_a_token_s_file_is_no_part_of_it(
        self, tmp_path: Path, clock: list[float]
    ) -> None:
        (tmp_path / "token").write_text("from-a-file\n")
        async with scripted_api(tmp_path) as api:
            api.last = answer(200, {})
            async with connected(clock, with_user(api, tokenFile=str(tmp_path / "token"))) as client:
                await client.get(THINGS)
        assert tokens(api) == ["from-a-file"]


def with_user(api: ScriptedApi, **user: Any) -> Path:
    """The kubeconfig with another user."""
    path = api.kubeconfig()
    config = yaml.safe_load(path.read_text())
    config["users"][0]["user"] = user
    path.write_text(yaml.safe_dump(config))
    return path


class Command:
    """What a kubeconfig runs, such as `aws eks get-token`."""

    def __init__(self, folder: Path) -> None:
        self._answer, self._runs, self._program = folder / "answer", folder / "runs", folder / "get-token"
        self._program.write_text(f"#!/bin/sh\necho run >> {self._runs}\ncat {self._answer}\n")
        self._program.chmod(0o700)

    def gives(self, **status: str) -> None:
        kind = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
        self._answer.write_text(json.dumps({**kind, "status": status}))

    def fails(self) -> None:
        self._answer.unlink()

    @property
    def runs(self) -> int:
        return len(self._runs.read_text().splitlines())

    def kubeconfig(self, api: ScriptedApi) -> Path:
        return with_user(
            api, exec={"apiVersion": "client.authentication.k8s.io/v1", "command": str(self._program), "args": []}
        )


async def test_a_command_is_run_anew_and_one_that_fails_takes_no_token_away(tmp_path: Path, clock: list[float]) -> None:
    command = Command(tmp_path)
    async with scripted_api(tmp_path) as api:
        api.last = answer(200, {})
        command.gives(token="first")
        async with connected(clock, command.kubeconfig(api)) as client:
            await client.get(THINGS)
            command.gives(token="second")
            clock[0] += 301
            await client.get(THINGS)
            command.fails()
            clock[0] += 301
            await client.get(THINGS)
            assert "its command gave none" in str(client.renewal.trouble)
            command.gives(token="third")
            clock[0] += 61
            await client.get(THINGS)
            assert client.renewal.trouble is None
    assert tokens(api) == ["first", "second", "second", "third"]


async def test_however_many_calls_are_refused_a_command_is_run_every_five_seconds_at_most(
    tmp_path: Path, clock: list[float]
) -> None:
    command = Command(tmp_path)
    async with scripted_api(tmp_path) as api:
        api.last = answer(401, {"message": "who?"})
        command.gives(token="revoked")
        async with connected(clock, command.kubeconfig(api)) as client:
            for _ in range(20):
                await asyncio.gather(*(client.get(THINGS) for _ in range(3)), return_exceptions=True)
                clock[0] += 1
    assert command.runs == 1 + 4


async def test_however_many_calls_wait_for_a_look_that_takes_long_they_wait_for_one(
    tmp_path: Path, clock: list[float]
) -> None:
    """As where a command hangs; here it is the wait for whoever writes a file, which takes no real time."""
    looks = 0

    async def slow() -> None:
        nonlocal looks
        looks += 1
        clock[0] += 29
        await asyncio.sleep(0)
        raise ValueError("it comes to nothing")

    async with scripted_api(tmp_path) as api, connected(clock, api.kubeconfig(), settle=slow) as client:
        (tmp_path / "ca.pem").write_bytes(WebCa().pem)
        session = await client.renewal.session()
        assert not any(await asyncio.gather(*(client.renewal.is_replaced(session) for _ in range(6))))
        assert looks == 1
        clock[0] += 5
        assert not await client.renewal.is_replaced(session)
        assert looks == 2


class TestAuthorities:
    """Of the API server's certificate."""

    async def test_a_new_one_is_found_where_a_connection_is_refused_and_no_call_fails(
        self, tmp_path: Path, clock: list[float]
    ) -> None:
        async with scripted_api(tmp_path) as api:
            api.last = answer(200, {}, **ALONE)
            async with connected(clock, api.kubeconfig()) as client:
                await client.get(THINGS)
                api.show(WebCa())
                (tmp_path / "ca.pem").write_bytes(api.ca.pem)
                await asyncio.gather(*(client.get(THINGS) for _ in range(5)))
                assert client.renewal.trouble is None

    async def test_the_old_one_is_not_believed_any_more_though_no_connection_is_refused(
        self, tmp_path: Path, clock: list[float]
    ) -> None:
        async with scripted_api(tmp_path) as api:
            api.last = answer(200, {}, **ALONE)
            async with connected(clock, api.kubeconfig()) as client:
                (tmp_path / "ca.pem").write_bytes(WebCa().pem)
                await client.get(THINGS)
                clock[0] += 301
                with pytest.raises(Unavailable) as refused:
                    await client.get(THINGS)
        assert refused.value.reason is Reason.KUBERNETES_UNTRUSTED

    async def test_a_watch_that_works_goes_on_and_its_connection_ends_with_it(
        self, tmp_path: Path, clock: list[float]
    ) -> None:
        async with scripted_api(tmp_path, watch(event("ADDED", "a", 1))) as api:
            api.last = answer(200, {})
            async with connected(clock, api.kubeconfig(token="first")) as client:
                before = await client.renewal.session()
                async with client.watch(THINGS, resource_version="0") as events:
                    assert (await anext(events)).kind == "ADDED"
                    api.kubeconfig(token="second")
                    clock[0] += 301
                    await client.get(THINGS)
                    assert await client.renewal.session() is not before
                    assert not is_closed(before)
                assert is_closed(before)
        assert tokens(api) == ["first", "second"]


def is_closed(session: Session) -> bool:
    pool = session.api.rest_client.pool_manager
    return pool is not None and pool.closed


Spoil = Callable[[ScriptedApi, Path], None]


def _rewritten(change: Callable[[str], str]) -> Spoil:
    def spoil(api: ScriptedApi, path: Path) -> None:
        del api
        path.write_text(change(path.read_text()))

    return spoil


def _authorities(change: Callable[[bytes], bytes]) -> Spoil:
    def spoil(api: ScriptedApi, path: Path) -> None:
        del path
        (api.folder / "ca.pem").write_bytes(change(api.ca.pem))

    return spoil


def _another_key(api: ScriptedApi, path: Path) -> None:
    (path.parent / "client.key").write_bytes(pem_of(api.ca.certificate().key))


HALF: Final[dict[str, Spoil]] = {
    "no authorities": _authorities(lambda _: b""),
    "half an authority": _authorities(lambda pem: pem[:300]),
    "one authority and a half": _authorities(lambda pem: pem + pem[:300]),
    "one authority and the beginning of a line": _authorities(lambda pem: pem + pem[:15]),
    "an authority that is none": _authorities(lambda pem: pem.replace(b"A", b"B")),
    "no file of authorities": lambda api, _: (api.folder / "ca.pem").unlink(),
    "the key of another certificate": _another_key,
    "no key": lambda _, path: (path.parent / "client.key").unlink(),
    "an empty kubeconfig": _rewritten(lambda _: ""),
    "a kubeconfig without users": _rewritten(lambda text: text[: text.index("users:")]),
    "half a kubeconfig": _rewritten(lambda text: text[: text.index("contexts:") + 20]),
    "a kubeconfig that is no YAML": _rewritten(lambda text: text + "\n{"),
    "a kubeconfig with nobody in it": _rewritten(lambda text: text[: text.index("  user:")]),
}


@pytest.mark.parametrize("spoil", HALF.values(), ids=HALF)
async def test_what_is_half_written_is_not_taken_and_told_of(tmp_path: Path, clock: list[float], spoil: Spoil) -> None:
    async with scripted_api(tmp_path) as api:
        api.last = answer(200, {}, **ALONE)
        certificate = api.ca.certificate("client")
        (tmp_path / "client.pem").write_bytes(certificate.pem)
        (tmp_path / "client.key").write_bytes(pem_of(certificate.key))
        files = {"client-certificate": str(tmp_path / "client.pem"), "client-key": str(tmp_path / "client.key")}
        path = with_user(api, **files)
        async with connected(clock, path) as client:
            spoil(api, path)
            clock[0] += 301
            await client.get(THINGS)
            trouble = client.renewal.trouble
            assert trouble is not None
            assert trouble.reason is Reason.CONFIG_INVALID
            assert str(path) in trouble.message
            (tmp_path / "client.key").write_bytes(pem_of(certificate.key))
            with_user(api, **files)
            clock[0] += 61
            await client.get(THINGS)
            assert client.renewal.trouble is None


async def test_what_changes_while_it_is_read_is_not_taken(tmp_path: Path, clock: list[float]) -> None:
    """Two authorities, of which one is there so far: each for itself looks whole."""
    async with scripted_api(tmp_path) as api:
        api.last = answer(200, {}, **ALONE)
        other = WebCa()

        async def meanwhile() -> None:
            (tmp_path / "ca.pem").write_bytes(other.pem + api.ca.pem)

        async with connected(clock, api.kubeconfig(), settle=meanwhile) as client:
            (tmp_path / "ca.pem").write_bytes(other.pem)
            clock[0] += 301
            await client.get(THINGS)
            assert "being written just now" in str(client.renewal.trouble)
            clock[0] += 61
            await client.get(THINGS)
            assert client.renewal.trouble is None
