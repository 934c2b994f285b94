"""`citadel-cli jwt`: tokens fetched, looked at and verified."""

# ruff: noqa: N802 - names and parameters are those of the generated servicer

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from grpc import aio

from citadel._wire import workload_pb2 as pb
from citadel._wire import workload_pb2_grpc
from citadel.errors import CitadelError, InvalidArgument, PermissionDenied, Reason
from citadel.rpc import ErrorBorder
from cli.workload.address import ADDRESS_VARIABLE
from tests.certificates import NOW, WORKLOAD, bundle, root
from tests.tokens import AUDIENCE, LEFT_OUT, token
from tests.unit.cli.fake_admin import Program

KEY = ec.generate_private_key(ec.SECP256R1())
T = int(NOW.timestamp())
TOKEN = token(KEY, group=["a", 1])
SIGNATURE = TOKEN.rpartition(".")[2]


class FakeWorkloadApi(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    """Answers `svids` and judges as it is told."""

    def __init__(self) -> None:
        self.svids = [pb.JWTSVID(spiffe_id=WORKLOAD, svid=TOKEN, hint="internal")]
        self.refusal: CitadelError | None = None
        self.asked: list[Any] = []

    async def FetchJWTSVID(self, request: pb.JWTSVIDRequest, context: Any) -> pb.JWTSVIDResponse:
        self._note(request, context)
        return pb.JWTSVIDResponse(svids=self.svids)

    async def ValidateJWTSVID(self, request: pb.ValidateJWTSVIDRequest, context: Any) -> pb.ValidateJWTSVIDResponse:
        self._note(request, context)
        return pb.ValidateJWTSVIDResponse(spiffe_id=WORKLOAD)

    def _note(self, request: Any, context: Any) -> None:
        assert ("workload.spiffe.io", "true") in context.invocation_metadata()
        self.asked.append(request)
        if self.refusal is not None:
            raise self.refusal


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[FakeWorkloadApi]:
    agent, server = FakeWorkloadApi(), aio.server(interceptors=[ErrorBorder()])
    workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(agent, server)
    server.add_insecure_port(f"unix:{tmp_path / 'agent.sock'}")
    await server.start()
    yield agent
    await server.stop(grace=None)


@pytest.fixture
def at(tmp_path: Path) -> tuple[str, str]:
    return "--socket", str(tmp_path / "agent.sock")


@pytest.fixture
def bundle_file(tmp_path: Path) -> str:
    path = tmp_path / "bundle.json"
    path.write_bytes(bundle(root(), jwt_authorities={"k1": KEY.public_key()}).to_json())
    return str(path)


class TestFetch:
    async def test_a_table_shows_what_tokens_say_and_not_the_tokens(
        self, program: Program, agent: FakeWorkloadApi, at: tuple[str, str]
    ) -> None:
        result = await program("jwt", "fetch", "one", "two", *at)
        assert result.exit_code == 0, result.output
        assert WORKLOAD in result.stdout
        assert "2026-01-01T00:05:00Z (in 5m)" in result.stdout
        assert SIGNATURE not in result.output
        assert [(list(each.audience), each.spiffe_id) for each in agent.asked] == [(["one", "two"], "")]

    async def test_asked_for_they_are_printed_alone(
        self, program: Program, agent: FakeWorkloadApi, at: tuple[str, str]
    ) -> None:
        result = await program("jwt", "fetch", "--raw", "--spiffe-id", WORKLOAD, "one", *at)
        assert result.stdout == f"{TOKEN}\n"
        assert agent.asked[0].spiffe_id == WORKLOAD

    async def test_as_json(self, program: Program, agent: FakeWorkloadApi, tmp_path: Path) -> None:
        result = await program(
            *("-o", "json", "jwt", "fetch", "one"), env={ADDRESS_VARIABLE: f"unix://{tmp_path / 'agent.sock'}"}
        )
        (svid,) = json.loads(result.stdout)["svids"]
        assert (svid["token"], svid["hint"], svid["claims"]["sub"]) == (TOKEN, "internal", WORKLOAD)
        assert svid["header"] == {"alg": "ES256", "kid": "k1", "typ": "JWT"}
        assert (svid["issued_at"], svid["expires_at"]) == ("2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z")
        assert agent.asked

    @pytest.mark.spec("WAPI-24")
    async def test_of_two_with_one_hint_the_first_holds(
        self, program: Program, agent: FakeWorkloadApi, at: tuple[str, str]
    ) -> None:
        agent.svids *= 2
        assert (await program("jwt", "fetch", "--raw", "one", *at)).stdout == f"{TOKEN}\n"

    async def test_a_refusal_is_told(self, program: Program, agent: FakeWorkloadApi, at: tuple[str, str]) -> None:
        agent.refusal = PermissionDenied(Reason.NO_IDENTITY, "nobody")
        result = await program("jwt", "fetch", "one", *at)
        assert (result.exit_code, result.stdout) == (6, "")
        assert "no_identity" in result.stderr

    @pytest.mark.spec("WAPI-14")
    @pytest.mark.parametrize(
        "svids",
        [
            [],
            [pb.JWTSVID(spiffe_id=WORKLOAD)],
            [pb.JWTSVID(svid=TOKEN)],
            [pb.JWTSVID(spiffe_id="spiffe://a.test/other", svid=TOKEN)],
            [pb.JWTSVID(spiffe_id=WORKLOAD, svid="garbage")],
        ],
    )
    async def test_an_answer_that_lacks_something_is_refused(
        self, program: Program, agent: FakeWorkloadApi, at: tuple[str, str], svids: list[pb.JWTSVID]
    ) -> None:
        agent.svids = svids
        result = await program("jwt", "fetch", "one", *at)
        assert (result.exit_code, result.stdout) == (3, "")
        assert "svid_malformed" in result.stderr
        assert SIGNATURE not in result.stderr

    async def test_an_audience_is_needed(self, program: Program) -> None:
        assert (await program("jwt", "fetch")).exit_code == 2
        assert (await program("jwt", "fetch", "")).exit_code == 2

    async def test_no_agent(self, program: Program, at: tuple[str, str]) -> None:
        result = await program("jwt", "fetch", "one", *at)
        assert result.exit_code == 7
        assert "no agent answers at" in result.stderr


class TestInspect:
    @pytest.mark.parametrize("given", ["argument", "standard input"])
    async def test_it_shows_what_a_token_says_and_that_nobody_verified_it(self, program: Program, given: str) -> None:
        if given == "argument":
            result = await program("jwt", "inspect", TOKEN)
        else:
            result = await program("jwt", "inspect", "-", stdin=f"{TOKEN}\n".encode())
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert lines[0] == "not verified: anybody can have written this"
        shown = dict(line.split("  ", 1) for line in lines[2:])
        assert {name: value.strip() for name, value in shown.items()} == {
            "subject": WORKLOAD,
            "audience": AUDIENCE,
            "issuer": "-",
            "issued": "2026-01-01T00:00:00Z (0s ago)",
            "not before": "-",
            "expires": "2026-01-01T00:05:00Z (in 5m)",
            "id": "-",
            "algorithm": "ES256",
            "key id": "k1",
            "type": "JWT",
            "claim group": '["a", 1]',
            "problem": "none to be seen without its keys",
        }

    async def test_as_json(self, program: Program) -> None:
        shown = json.loads((await program("-o", "json", "jwt", "inspect", token(KEY, exp=T - 3600))).stdout)
        assert (shown["verified"], shown["problem"]) == (False, "the token expired at 2025-12-31T23:00:00+00:00")
        assert shown["claims"]["sub"] == WORKLOAD

    @pytest.mark.parametrize(
        ("claims", "words"),
        [
            ({"exp": "soon"}, "exp is not a number"),
            ({"exp": LEFT_OUT}, "the token has no exp"),
            ({"nbf": T + 60}, "not valid before"),
            ({"aud": 1}, "aud is neither text nor a list of texts"),
            ({"sub": 1}, "sub is not text"),
            ({"evil": "\x1b[2J"}, r"\x1b[2J"),
        ],
    )
    async def test_what_is_wrong_is_said(self, program: Program, claims: dict[str, Any], words: str) -> None:
        for form in ((), ("-o", "json")):
            result = await program(*form, "jwt", "inspect", token(KEY, **claims))
            assert result.exit_code == 0
            assert form or words in result.stdout
            assert "\x1b" not in result.stdout

    @pytest.mark.parametrize(("text", "reason"), [("garbage", "jwt_malformed"), ("", "jwt_malformed")])
    async def test_what_is_no_token_is_refused(self, program: Program, text: str, reason: str) -> None:
        result = await program("jwt", "inspect", text)
        assert (result.exit_code, result.stdout) == (3, "")
        assert reason in result.stderr

    async def test_bytes_that_are_no_text(self, program: Program) -> None:
        result = await program("jwt", "inspect", "-", stdin=b"\xff\xfe")
        assert result.exit_code == 3
        assert "jwt_malformed" in result.stderr


class TestVerify:
    async def test_by_a_bundle(self, program: Program, bundle_file: str) -> None:
        result = await program("jwt", "verify", TOKEN, "--audience", AUDIENCE, "--bundle", bundle_file)
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith(f"verified: this token is of {WORKLOAD}, for {AUDIENCE}\n")

    @pytest.mark.parametrize(
        ("text", "audience", "reason"),
        [
            (TOKEN, "other", "jwt_audience_mismatch"),
            (token(KEY, exp=T - 60), AUDIENCE, "jwt_expired"),
            (token(ec.generate_private_key(ec.SECP256R1())), AUDIENCE, "jwt_bad_signature"),
            (token(KEY, kid="k2"), AUDIENCE, "jwt_key_unknown"),
            (token(KEY, sub="spiffe://b.test/x", kid="k2"), AUDIENCE, "jwt_key_unknown"),
            (token(KEY, header={"alg": "none"}), AUDIENCE, "jwt_algorithm_refused"),
            ("garbage", AUDIENCE, "jwt_malformed"),
        ],
    )
    async def test_one_that_is_not_good_is_refused_with_the_reason(
        self, program: Program, bundle_file: str, text: str, audience: str, reason: str
    ) -> None:
        result = await program(
            "jwt", "verify", "-", "--audience", audience, "--bundle", bundle_file, stdin=text.encode()
        )
        assert (result.exit_code, result.stdout) == (3, "")
        assert reason in result.stderr

    async def test_a_bundle_that_is_none(self, program: Program, tmp_path: Path) -> None:
        (tmp_path / "bad").write_text("{}")
        result = await program("jwt", "verify", TOKEN, "--audience", AUDIENCE, "--bundle", str(tmp_path / "bad"))
        assert result.exit_code == 3
        assert "bundle_malformed" in result.stderr

    @pytest.mark.spec("WAPI-42")
    async def test_the_agent_judges_where_no_bundle_is_named(
        self, program: Program, agent: FakeWorkloadApi, at: tuple[str, str]
    ) -> None:
        result = await program("-o", "json", "jwt", "verify", TOKEN, "--audience", AUDIENCE, *at)
        assert json.loads(result.stdout)["verified"] is True
        assert [(each.svid, each.audience) for each in agent.asked] == [(TOKEN, AUDIENCE)]
        agent.refusal = InvalidArgument(Reason.JWT_EXPIRED, "over")
        result = await program("jwt", "verify", TOKEN, "--audience", AUDIENCE, *at)
        assert (result.exit_code, result.stdout) == (3, "")
        assert "jwt_expired" in result.stderr

    async def test_an_audience_is_needed(self, program: Program) -> None:
        assert (await program("jwt", "verify", TOKEN)).exit_code == 2
