"""The whole agent in this process, against a fake server over real TLS."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import agent_api_pb2_grpc
from citadel.config.files import read_secret_file
from citadel.config.types import HostPort
from citadel.errors import CitadelError, FailedPrecondition, PermissionDenied, Reason, Unavailable
from citadel.join_string import JoinString
from citadel.wire import entry_to_wire
from cli.agent_joining import JOIN_STRING_VARIABLE
from cli.agent_process import run_agent, validate_agent
from sds.keep.keys import PrivateKey, load_pem, new_key, request_for
from sds.keep.signer import Signed, SigningRequest
from sds.link.identity import IdentityFile
from sds.link.signing import RemoteSigner, RemoteTokenSigner
from sds.settings import AgentSettings, JoinSettings
from sds.tokens.signer import TokenRequest
from tests.ports import free_port
from tests.unit.sds.fake_authority import A_TEST, FakeAuthority, entry
from tests.unit.sds.fake_server import (
    QUICK,
    FakeAgentApi,
    FakeBootstrap,
    channel_to,
    now,
    serve_agents,
    serve_bootstrap,
)


def public_bytes(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class Bench:
    """Settings of an agent, and the server that it is to join."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o700)
        self.authority = FakeAuthority(now())
        self.bootstrap = FakeBootstrap(self.authority)
        self.api = FakeAgentApi(self.authority)
        self.string_file = folder / "join"
        self.settings = AgentSettings(
            trust_domain=A_TEST,
            data_dir=folder / "data",
            socket=folder / "public" / "agent.sock",
            admin_socket=folder / "admin.sock",
            join=JoinSettings(string_file=self.string_file),
            reconnect=QUICK,
            probes=HostPort("127.0.0.1", free_port()),
        )

    async def start(self) -> None:
        self.bootstrap_server, address = await serve_bootstrap(self.bootstrap, self.authority)
        self.agents_server, agents = await serve_agents(self.api, self.authority)
        self.bootstrap.agent_api = str(agents)
        join_string = JoinString(
            address=address, trust_domain=A_TEST, bundle_sha256=self.authority.bundle.x509_digest(), token="t0ken"
        )
        self.string_file.touch(mode=0o600)
        self.string_file.write_text(f"{join_string}\n")

    async def stop(self) -> None:
        await self.bootstrap_server.stop(None)
        await self.agents_server.stop(None)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        task = asyncio.create_task(run_agent(self.settings, stop=stop))
        try:
            yield
        finally:
            stop.set()
            async with asyncio.timeout(5):  # what a supervisor may wait for
                await task

    async def ready(self) -> tuple[int, dict[str, object]]:
        def ask() -> tuple[int, dict[str, object]]:
            try:
                with urllib.request.urlopen(f"http://{self.settings.probes}/ready", timeout=2) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as error:
                return error.code, json.load(error)
            except OSError:
                return 0, {}

        return await asyncio.to_thread(ask)

    async def until_status(self, status: str) -> dict[str, object]:
        async with asyncio.timeout(10):
            while (answer := (await self.ready())[1]).get("status") != status:
                await asyncio.sleep(0.02)
        return answer


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    await made.start()
    yield made
    await made.stop()


async def test_an_agent_joins_once_gets_its_svids_and_comes_back_without_a_token(bench: Bench) -> None:
    web = entry("web")
    bench.api.entries = {"web": web}
    bench.api.snapshot = [pb.Update(revision=1, snapshot=True, entries=[entry_to_wire(web)])]
    validate_agent(bench.settings)
    assert not bench.settings.data_dir.exists()
    async with bench.running():
        answer = await bench.until_status("ready")
        assert answer["checks"]["svids"] == "1 of 1 entries have one"
        assert bench.settings.socket.exists()
    assert not bench.settings.socket.exists()
    bench.string_file.unlink()
    validate_agent(bench.settings)
    async with bench.running():
        await bench.until_status("ready")
    assert bench.bootstrap.tokens == ["t0ken"]


@pytest.mark.invariant(12)
async def test_a_lost_answer_to_the_token_is_asked_for_again_with_the_same_key_which_was_on_disk_first(
    bench: Bench,
) -> None:
    key_file = bench.settings.data_dir / "joining-key.pem"
    on_disk: list[bytes] = []
    bench.bootstrap.on_join = lambda: on_disk.append(public_bytes(load_pem(read_secret_file(key_file))))
    bench.bootstrap.lose_answers = 2
    async with bench.running():
        await bench.until_status("ready")
    assert len(bench.bootstrap.asked_keys) == 3
    assert bench.bootstrap.asked_keys == on_disk == [on_disk[0]] * 3
    identity = IdentityFile(bench.settings.data_dir).load(A_TEST)
    assert identity is not None
    assert public_bytes(identity.key) == on_disk[0]
    assert not key_file.exists()


@pytest.mark.invariant(12)
async def test_an_agent_that_was_stopped_while_it_joined_goes_on_with_its_key(bench: Bench) -> None:
    bench.bootstrap.lose_answers = 1000
    async with bench.running():
        await until(lambda: bench.bootstrap.asked_keys)
    bench.bootstrap.lose_answers = 0
    async with bench.running():
        await bench.until_status("ready")
    assert len(set(bench.bootstrap.asked_keys)) == 1


@pytest.mark.invariant(12)
async def test_an_identity_that_cannot_be_saved_is_asked_for_again_at_the_next_start(bench: Bench) -> None:
    in_the_way = bench.settings.data_dir / "identity.json"
    bench.bootstrap.on_join = in_the_way.mkdir
    with pytest.raises(Unavailable) as refused:
        await run_agent(bench.settings, stop=asyncio.Event())
    assert refused.value.reason is Reason.STORE_UNAVAILABLE
    in_the_way.rmdir()
    bench.bootstrap.on_join = lambda: None
    async with bench.running():
        await bench.until_status("ready")
    assert len(bench.bootstrap.asked_keys) == 2
    assert len(set(bench.bootstrap.asked_keys)) == 1


async def test_two_agents_do_not_share_a_data_dir(bench: Bench) -> None:
    async with bench.running():
        await bench.until_status("ready")
        with pytest.raises(FailedPrecondition) as refused:
            await run_agent(bench.settings, stop=asyncio.Event())
    assert refused.value.reason is Reason.DATA_DIR_IN_USE


async def test_a_data_dir_that_cannot_be_written_ends_the_start_before_the_token_is_sent(bench: Bench) -> None:
    bench.settings.data_dir.mkdir(mode=0o700)
    (bench.settings.data_dir / "lock").mkdir()  # root may write everywhere, but not a folder
    with pytest.raises(FailedPrecondition) as refused:
        await run_agent(bench.settings, stop=asyncio.Event())
    assert refused.value.reason is Reason.STORE_UNAVAILABLE
    assert bench.bootstrap.tokens == []


async def test_what_a_killed_agent_left_half_written_is_gone_after_the_next_start(bench: Bench) -> None:
    bench.settings.data_dir.mkdir(mode=0o700)
    left = bench.settings.data_dir / ".identity.json.abcd1234.unfinished"
    left.touch(mode=0o600)
    async with bench.running():
        await bench.until_status("ready")
    assert not left.exists()


@pytest.mark.invariant(5)
async def test_with_an_identity_on_disk_the_socket_is_there_though_the_server_is_away(bench: Bench) -> None:
    async with bench.running():
        await bench.until_status("ready")
    await bench.stop()
    async with bench.running():
        await until(bench.settings.socket.exists)
        status, answer = await bench.ready()
        assert (status, answer["status"]) == (503, "not_ready")
        assert answer["checks"]["server"].startswith("away")


async def test_an_agent_is_degraded_while_the_server_is_away_or_an_entry_is_refused(bench: Bench) -> None:
    good, bad = entry("good"), entry("bad")
    bench.api.entries = {"good": good}
    bench.api.snapshot = [pb.Update(revision=1, snapshot=True, entries=map(entry_to_wire, [good, bad]))]
    async with bench.running():
        assert (await bench.until_status("degraded"))["checks"]["svids"] == "1 of 2 entries have one"
        bench.api.entries["bad"] = bad
        await bench.until_status("ready")
        await bench.agents_server.stop(None)
        assert (await bench.until_status("degraded"))["checks"]["server"].startswith("away")


async def test_an_agent_that_waits_for_its_server_can_be_stopped(bench: Bench) -> None:
    await bench.stop()
    async with bench.running():
        answer = await bench.until_status("not_ready")
        assert answer["checks"]["identity"] == "not joined yet"
    assert IdentityFile(bench.settings.data_dir).load(A_TEST) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, Reason.FILE_UNSAFE),
        ("citadel://nonsense", Reason.JOIN_STRING_MALFORMED),
        ("\xff\xfe", Reason.JOIN_STRING_MALFORMED),
    ],
)
async def test_a_bad_join_string_ends_the_start(bench: Bench, content: str | None, reason: Reason) -> None:
    if content is None:
        bench.string_file.unlink()
    else:
        bench.string_file.write_text(content)
    with pytest.raises(CitadelError) as refused:
        await run_agent(bench.settings, stop=asyncio.Event())
    assert refused.value.reason is reason
    with pytest.raises(CitadelError) as refused:
        validate_agent(bench.settings)
    assert refused.value.reason is reason


async def test_without_identity_and_join_string_the_agent_says_how_to_get_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = bench.settings.model_copy(update={"join": JoinSettings()})
    monkeypatch.delenv(JOIN_STRING_VARIABLE, raising=False)
    with pytest.raises(CitadelError, match="token create"):
        await run_agent(settings, stop=asyncio.Event())
    monkeypatch.setenv(JOIN_STRING_VARIABLE, bench.string_file.read_text())
    validate_agent(settings)


async def test_the_remote_signer_gives_svids_and_refusals_in_order(bench: Bench) -> None:
    bench.api.entries = {"web": entry("web")}
    address = HostPort.parse(bench.bootstrap.agent_api)
    channel = channel_to(address, bench.authority)
    signer = RemoteSigner(api=lambda: agent_api_pb2_grpc.AgentApiStub(channel))
    csr = request_for(new_key("ec-p256"))
    requests = [SigningRequest(entry_id=name, csr=csr) for name in ("gone", "web")]
    results = await signer.sign(requests, within=timedelta(seconds=10))
    refusal, signed = results
    assert isinstance(refusal, CitadelError)
    assert refusal.reason is Reason.ENTRY_NOT_FOUND
    assert isinstance(signed, Signed)
    assert len(signed.chain) == 2
    await channel.close()


async def test_tokens_are_asked_for_with_their_audiences_and_refused_one_by_one(bench: Bench) -> None:
    address = HostPort.parse(bench.bootstrap.agent_api)
    bench.api.entries, bench.api.barred = {"web": entry("web")}, {"bad"}
    requests = [TokenRequest(entry_id=each, audience=("one", "two")) for each in ("web", "bad")]
    async with channel_to(address, bench.authority) as channel:
        signer = RemoteTokenSigner(api=lambda: agent_api_pb2_grpc.AgentApiStub(channel))
        token, refusal = await signer.sign(requests, within=timedelta(seconds=5))
        assert token == "web for one"
        assert isinstance(refusal, PermissionDenied)
        assert refusal.reason == Reason.IDENTITY_REVOKED
        unknown = [TokenRequest(entry_id="gone", audience=("one",))]
        with pytest.raises(CitadelError, match="0 results to 1 requests"):
            await signer.sign(unknown, within=timedelta(seconds=5))
        bench.api.hang_signing = True
        with pytest.raises(Unavailable):
            await signer.sign(requests, within=timedelta(milliseconds=50))


async def test_a_signing_server_that_hangs_is_given_up_when_the_time_is_over(bench: Bench) -> None:
    address = HostPort.parse(bench.bootstrap.agent_api)
    bench.api.hang_signing = True
    async with channel_to(address, bench.authority) as channel:
        signer = RemoteSigner(api=lambda: agent_api_pb2_grpc.AgentApiStub(channel))
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable):
                await signer.sign([], within=timedelta(milliseconds=50))


async def test_a_call_whose_channel_is_closed_under_it_is_worth_another_try(bench: Bench) -> None:
    address = HostPort.parse(bench.bootstrap.agent_api)
    await bench.agents_server.stop(None)
    silent = await asyncio.start_server(lambda *_: None, "127.0.0.1", address.port)  # accepts, and says nothing
    channel = channel_to(address, bench.authority)
    signer = RemoteSigner(api=lambda: agent_api_pb2_grpc.AgentApiStub(channel))
    asking = asyncio.create_task(signer.sign([], within=timedelta(seconds=10)))
    await asyncio.sleep(0.1)
    await channel.close()
    with pytest.raises(CitadelError) as refused:
        await asking
    assert refused.value.reason is Reason.SERVER_UNREACHABLE
    silent.close()
