"""How an agent joins by Kubernetes: files that come late and change, refusals that pass, and those that stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import jwt
import pytest

from citadel.clock import SystemClock
from citadel.errors import (
    CitadelError,
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    Reason,
    Unauthenticated,
    Unavailable,
)
from citadel.reserved import agent_id, k8s_agent_id, x509pop_agent_id
from citadel.spiffe import SpiffeId
from citadel.svid import X509Svid
from cli.agent_joining import check_can_join, kept_identity, own_identity, returning
from cli.agent_pod import SHOWING
from sds.keep.keys import new_key
from sds.link.identity import AgentIdentity, IdentityFile
from sds.settings import AgentSettings, KubernetesSettings
from tests.unit.sds.fake_authority import A_TEST, FakeAuthority
from tests.unit.sds.fake_server import HOUR, FakeBootstrap, make_identity, now, serve_bootstrap


class HastyClock(SystemClock):
    """Sleeps are noted and are over at once; `wakes` is called after each."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.wakes: Callable[[], object] = lambda: None

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.wakes()
        await asyncio.sleep(0)


class Bench:
    """An agent's settings, the files of its pod, and a server."""

    def __init__(self, folder: Path) -> None:
        self.authority = FakeAuthority(now())
        self.door = FakeBootstrap(self.authority)
        self.token, self.bundle = folder / "token", folder / "bundle.pem"
        self.folder = folder
        self.clock = HastyClock()

    async def start(self) -> None:
        self.server, address = await serve_bootstrap(self.door, self.authority)
        self.settings = AgentSettings.model_validate(
            {
                "trust_domain": "a.test",
                "data_dir": self.folder / "data",
                "join": {
                    "servers": [str(address)],
                    "bundle_file": self.bundle,
                    "k8s_psat": {"cluster": "c1", "token_file": self.token},
                },
            }
        )

    def mount(self, content: str = "one") -> None:
        self.token.write_text(f"{content}\n")
        self.bundle.write_bytes(self.authority.bundle.to_pem())

    def keep(self, spiffe_id: SpiffeId) -> AgentIdentity:
        """Have this identity on disk."""
        key = new_key("ec-p256")
        identity = replace(
            make_identity(self.authority, self.settings.join.servers[0]),
            svid=X509Svid.from_der(self.authority.issue(spiffe_id, key, now(), HOUR)),
            key=key,
        )
        self.settings.data_dir.mkdir(mode=0o700)
        IdentityFile(self.settings.data_dir).save(identity)
        return identity

    async def join(self, *, showing: float = 30.0) -> AgentIdentity:
        return (await own_identity(self.settings, self.clock, showing=showing)).current


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    tmp_path.chmod(0o700)
    made = Bench(tmp_path)
    await made.start()
    yield made
    await made.server.stop(None)


async def test_the_token_is_shown_with_the_name_of_the_cluster(bench: Bench) -> None:
    bench.mount()
    await bench.join()
    assert (bench.door.tokens, bench.door.clusters) == (["one"], ["c1"])


async def test_what_is_not_mounted_yet_is_waited_for(bench: Bench) -> None:
    bench.clock.wakes = lambda: bench.mount() if len(bench.clock.slept) == 3 else None
    await bench.join()
    assert (bench.door.tokens, len(bench.clock.slept)) == (["one"], 3)


HERE = k8s_agent_id(A_TEST, "c1", "n1")


@pytest.mark.parametrize("spiffe_id", [HERE, k8s_agent_id(A_TEST, "c1", "n2")], ids=str)
async def test_where_the_node_is_not_told_any_of_the_cluster_is_taken_from_disk(
    bench: Bench, spiffe_id: SpiffeId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_NAME", "n1")  # which nobody asks for where no pods are attested
    kept = bench.keep(spiffe_id)
    assert (await bench.join()).svid == kept.svid
    assert bench.door.tokens == []


@pytest.mark.parametrize(
    ("spiffe_id", "is_taken"),
    [
        (HERE, True),
        (k8s_agent_id(A_TEST, "c1", "n2"), False),  # the image of another node, or another name of this one
        (k8s_agent_id(A_TEST, "c2", "n1"), False),  # the cluster is called otherwise now
    ],
    ids=str,
)
async def test_the_identity_of_another_node_or_cluster_is_not_taken_from_disk(
    bench: Bench, spiffe_id: SpiffeId, is_taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_NAME", "n1")
    bench.settings = bench.settings.model_copy(update={"kubernetes": KubernetesSettings()})
    bench.door.answered_id = HERE
    kept = bench.keep(spiffe_id)
    assert (kept_identity(bench.settings) is not None) is is_taken
    bench.mount()
    identity = await bench.join()
    assert identity.svid.spiffe_id == HERE
    assert (identity.svid == kept.svid, bench.door.tokens) == ((True, []) if is_taken else (False, ["one"]))
    on_disk = IdentityFile(bench.settings.data_dir).load(A_TEST)
    assert on_disk is not None
    assert on_disk.svid == identity.svid


@pytest.mark.parametrize("spiffe_id", [agent_id(A_TEST, "n1"), x509pop_agent_id(A_TEST, "ab" * 32)], ids=str)
async def test_an_identity_of_another_way_of_joining_stays_and_no_token_is_shown_for_it(
    bench: Bench, spiffe_id: SpiffeId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_NAME", "n1")
    bench.settings = bench.settings.model_copy(update={"kubernetes": KubernetesSettings()})
    bench.door.answered_id = HERE
    kept = bench.keep(spiffe_id)
    bench.mount(token_of("pod-1"))
    assert (await bench.join()).svid == kept.svid
    assert bench.door.tokens == []


def token_of(pod: str) -> str:
    """A token as a cluster makes it, but for the signature, which nobody checks here."""
    return jwt.encode({"exp": 1, "kubernetes.io": {"pod": {"name": "agent", "uid": pod}}}, "k" * 32, algorithm="HS256")


async def after_a_rollout(bench: Bench, spiffe_id: SpiffeId = HERE) -> AgentIdentity:
    """What is on disk was joined with by pod-1, and pod-2 starts."""
    bench.door.answered_id = spiffe_id
    bench.mount(token_of("pod-1"))
    joined = await bench.join()
    bench.door.tokens.clear()
    bench.mount(token_of("pod-2"))
    return joined


async def test_an_agent_in_another_pod_shows_its_token_once_and_keeps_its_key(bench: Bench) -> None:
    bench.mount(token_of("pod-1"))
    bench.door.answered_id = HERE
    joined = await bench.join()
    assert (await bench.join()).svid == joined.svid  # in the same pod
    bench.door.tokens.clear()
    bench.mount(token_of("pod-2"))
    for _ in range(2):
        identity = await bench.join()
        assert bench.door.tokens == [token_of("pod-2")]
    assert identity.svid.spiffe_id == HERE
    assert identity.svid.serial != joined.svid.serial
    assert identity.key.public_key() == joined.key.public_key()
    assert len(set(bench.door.asked_keys)) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        Unavailable(Reason.KUBERNETES_UNAVAILABLE, "away"),
        PermissionDenied(Reason.K8S_ACCOUNT_NOT_ALLOWED, "not allowed"),
        PermissionDenied(Reason.AGENT_BANNED, "banned"),
    ],
    ids=lambda each: each.reason.value,
)
async def test_an_agent_that_cannot_show_its_token_now_stays_what_it_was_until_the_next_start(
    bench: Bench, refusal: CitadelError
) -> None:
    joined = await after_a_rollout(bench)
    bench.door.passing_refusals = [refusal]
    assert (await bench.join()).svid == joined.svid
    assert bench.clock.slept == []
    assert (await bench.join()).svid != joined.svid


@pytest.mark.parametrize("away", ["bundle", "disk", "server"])
async def test_nothing_that_is_away_keeps_an_agent_in_another_pod_from_starting(bench: Bench, away: str) -> None:
    joined = await after_a_rollout(bench)
    match away:
        case "bundle":
            bench.bundle.unlink()
        case "disk":
            bench.door.on_join = lambda: bench.settings.data_dir.rename(bench.folder / "unmounted")
        case "server":
            await bench.server.stop(None)
    assert (await bench.join()).svid == joined.svid


async def test_a_server_that_does_not_answer_holds_up_nobody_for_long(bench: Bench) -> None:
    joined = await after_a_rollout(bench)
    bench.door.answers.clear()
    assert SHOWING <= 2
    assert (await asyncio.wait_for(bench.join(showing=0.1), 20)).svid == joined.svid
    bench.door.answers.set()


async def test_the_server_is_known_by_what_is_on_disk_and_not_by_what_is_mounted(bench: Bench) -> None:
    joined = await after_a_rollout(bench)
    bench.bundle.write_bytes(FakeAuthority(now(), "others").bundle.to_pem())
    assert (await bench.join()).svid != joined.svid


async def test_whoever_turns_out_to_be_another_node_by_its_token_joins_with_a_key_of_its_own(bench: Bench) -> None:
    copied = await after_a_rollout(bench, k8s_agent_id(A_TEST, "c1", "n2"))
    bench.door.answered_id = HERE
    identity = await bench.join()
    assert identity.svid.spiffe_id == HERE
    assert identity.key.public_key() != copied.key.public_key()


@pytest.mark.parametrize(
    "content", ["", "one", "a.b.c", "e30.e30.e30", "é", jwt.encode({"kubernetes.io": []}, "k" * 32)]
)
async def test_a_token_that_names_no_pod_is_not_shown(bench: Bench, content: str) -> None:
    joined = await after_a_rollout(bench)
    bench.mount(content)
    assert (await bench.join()).svid == joined.svid
    bench.token.unlink()
    assert (await bench.join()).svid == joined.svid
    assert bench.door.tokens == []


PASSING = [
    Unauthenticated(Reason.K8S_TOKEN_EXPIRED, "it has ended"),
    Unauthenticated(Reason.K8S_TOKEN_REFUSED, "not known"),
    Unauthenticated(Reason.K8S_TOKEN_AUDIENCE, "for others"),
    Unauthenticated(Reason.K8S_POD_UNKNOWN, "gone"),
    PermissionDenied(Reason.K8S_NODE_TAKEN, "another one is here"),
    PermissionDenied(Reason.K8S_ACCOUNT_NOT_ALLOWED, "not allowed"),
    FailedPrecondition(Reason.K8S_CLUSTER_UNKNOWN, "not in the settings yet"),
]


@pytest.mark.parametrize("refusal", PASSING, ids=lambda each: each.reason.value)
async def test_what_the_cluster_can_mend_is_tried_again_slowly_with_the_token_of_then(
    bench: Bench, refusal: CitadelError
) -> None:
    bench.mount()
    bench.door.passing_refusals = [refusal]
    bench.clock.wakes = lambda: bench.mount("two")
    await bench.join()
    assert bench.door.tokens == ["one", "two"]
    (slept,) = bench.clock.slept
    assert 7.5 <= slept <= 12.5
    assert len(set(bench.door.asked_keys)) == 1


async def test_an_api_server_that_is_away_is_tried_again_soon(bench: Bench) -> None:
    bench.mount()
    bench.door.passing_refusals = [Unavailable(Reason.KUBERNETES_UNAVAILABLE, "away")]
    await bench.join()
    (slept,) = bench.clock.slept
    assert slept <= bench.settings.reconnect.maximum.total_seconds()


@pytest.mark.parametrize(
    "refusal",
    [PermissionDenied(Reason.AGENT_BANNED, "banned"), InvalidArgument(Reason.CSR_MALFORMED, "no request")],
    ids=lambda each: each.reason.value,
)
async def test_what_only_a_person_can_mend_ends_the_agent(bench: Bench, refusal: CitadelError) -> None:
    bench.mount()
    bench.door.passing_refusals = [refusal]
    with pytest.raises(type(refusal)):
        await bench.join()
    assert bench.clock.slept == []


async def test_a_bundle_of_others_is_waited_out_and_the_token_is_not_shown_meanwhile(bench: Bench) -> None:
    bench.mount()
    bench.bundle.write_bytes(FakeAuthority(now(), "others").bundle.to_pem())
    bench.clock.wakes = lambda: bench.mount("two")
    await bench.join()
    assert bench.door.tokens == ["two"]


async def test_an_agent_whose_key_is_not_taken_comes_back_by_the_token_of_now(bench: Bench) -> None:
    bench.mount("new")
    before = make_identity(bench.authority, bench.settings.join.servers[0])
    back = await returning(bench.settings, bench.clock).identity(before, key=new_key("ec-p256"))
    assert (bench.door.tokens, back.bundle) == (["new"], bench.authority.bundle)


async def test_an_agent_that_knows_its_server_no_more_believes_what_its_cluster_says(bench: Bench) -> None:
    bench.mount("new")
    before = make_identity(bench.authority, bench.settings.join.servers[0])
    stale = replace(before, bundle=FakeAuthority(now(), "gone").bundle)
    await returning(bench.settings, bench.clock).identity(stale, key=new_key("ec-p256"))
    assert bench.door.tokens == ["new"]


@pytest.mark.parametrize(
    ("trouble", "at_once"),
    [
        (None, False),
        (Unavailable(Reason.SERVER_UNREACHABLE, "away"), False),
        (PermissionDenied(Reason.AGENT_BANNED, "banned"), False),
        (PermissionDenied(Reason.AGENT_UNKNOWN, "evicted"), True),
        (PermissionDenied(Reason.AGENT_KEY_MISMATCH, "another one"), True),
    ],
)
async def test_it_asks_to_be_let_in_anew_once_the_server_has_no_place_for_it(
    bench: Bench, trouble: CitadelError | None, at_once: bool
) -> None:
    assert returning(bench.settings, bench.clock).comes_anew(trouble) is at_once
    by_string = bench.settings.model_copy(update={"join": bench.settings.join.model_copy(update={"k8s_psat": None})})
    assert not returning(by_string, bench.clock).comes_anew(trouble)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda bench: bench.token.unlink(), Reason.FILE_MISSING),
        (lambda bench: bench.token.write_text(" \n"), Reason.FILE_MISSING),
        (lambda bench: bench.bundle.unlink(), Reason.FILE_MISSING),
        (lambda bench: bench.bundle.write_bytes(b""), Reason.FILE_MISSING),
        (lambda bench: bench.bundle.write_bytes(b"{"), Reason.BUNDLE_MALFORMED),
        (lambda bench: (bench.token.unlink(), bench.token.mkdir()), Reason.FILE_UNSAFE),
    ],
)
async def test_validating_names_what_is_missing(bench: Bench, spoil: Callable[[Bench], object], reason: Reason) -> None:
    bench.mount("s3cret")
    check_can_join(bench.settings)
    spoil(bench)
    with pytest.raises(CitadelError) as refused:
        check_can_join(bench.settings)
    assert refused.value.reason is reason
    assert "s3cret" not in str(refused.value)
