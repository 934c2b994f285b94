"""The file with the policies while the agent runs: what is taken, what is not, and what is said of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from citadel.access.loading import load_policies
from citadel.access.rules import Policies
from citadel.errors import InvalidArgument, Reason
from citadel.jwt.jwks import KeySet
from citadel.jwt.key_ring import IssuerKeyRing
from citadel.jwt.keys import Answer, KeySource
from citadel.probes import Health
from sds.authz.metrics import PolicyCollector
from sds.authz.policy_file import PolicyFile
from sds.serve.callers import Attestation
from tests.clock import FakeClock
from tests.end_users import ISSUER, SigningKey, jwks
from tests.unit.sds.authorizing import OPEN, POLICY, write_policies
from tests.unit.sds.holding import UID_1

KEY = SigningKey.p256()
FETCHED = {**POLICY, "jwtRules": [{"issuer": ISSUER}]}


class Watched:
    """A policy file with its keys, whose issuers answer or not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock()
        self.asked: list[str] = []
        self.error: InvalidArgument | None = None
        self.keys = IssuerKeyRing(fetch=self._fetch, clock=self.clock, jitter=lambda: 0.0)
        self.down: set[str] = set()
        self.loads = 0
        self.file = PolicyFile(path, keys=self.keys, clock=self.clock, load=self._load)

    def _load(self, path: Path) -> Policies:
        self.loads += 1
        return load_policies(path)

    async def _fetch(self, source: KeySource) -> Answer:
        self.asked.append(source.issuer)
        if self.error is not None:
            raise self.error
        if source.url in self.down:
            raise InvalidArgument(Reason.JWKS_MALFORMED, "no key set")
        return Answer(keys=KeySet.of(jwks(KEY)))

    @property
    def name(self) -> str:
        """That of the policy of uid 1; empty where it has none."""
        found = self.file.current.of(Attestation(selectors=frozenset({UID_1})))
        return found.rules.name if found is not None else ""

    def measured(self) -> dict[str, float]:
        """Each gauge by its name, and its issuer where it is of one."""
        samples = (each for family in PolicyCollector(self.file).collect() for each in family.samples)
        return {f"{each.name}{''.join(each.labels.values())}": each.value for each in samples}

    def said(self) -> dict[str, tuple[Health, str]]:
        return {check.name: (check.health, check.text) for check in self.file.checks()}


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    watched = Watched(write_policies(tmp_path / "policies.yaml", POLICY))
    yield watched
    await watched.keys.close()


async def test_without_a_file_nobody_has_a_policy_and_nothing_is_said() -> None:
    clock = FakeClock()
    keys = IssuerKeyRing(fetch=_never, clock=clock, jitter=lambda: 0.0)
    file = PolicyFile(None, keys=keys, clock=clock)
    await file.load()
    await file.refresh()
    assert file.current.of(Attestation(selectors=frozenset({UID_1}))) is None
    assert list(file.checks()) == []


@pytest.mark.parametrize("content", [None, "policies: []\n", "policies:\n  - {name: web}\n", "["])
async def test_at_the_start_a_bad_file_is_refused(watched: Watched, content: str | None) -> None:
    if content is None:
        watched.path.unlink()
    else:
        watched.path.write_text(content)
    with pytest.raises(InvalidArgument) as refused:
        await watched.file.load()
    assert refused.value.reason is Reason.CONFIG_INVALID
    assert str(watched.path) in refused.value.message


async def test_a_change_is_taken_whatever_its_dates_say(watched: Watched) -> None:
    await watched.file.load()
    assert watched.name == "web"
    before = watched.path.stat()
    write_policies(watched.path, {**POLICY, "name": "own"})
    os.utime(watched.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    running = asyncio.create_task(watched.file.run())
    await until(watched.clock, lambda: watched.name == "own")
    running.cancel()


async def test_what_did_not_change_is_not_read_anew(watched: Watched) -> None:
    await watched.file.load()
    before = watched.file.current
    await watched.file.refresh()
    assert (watched.file.current, watched.loads) == (before, 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        ("policies:\n  - name: web\n    selectors: [unix:uid:1]\n    authorisation: []\n", ":4: unknown key"),
        ("[" * 500 + "]" * 500, "cannot be read: RecursionError"),
    ],
    ids=["gone", "unknown field", "deep"],
)
async def test_a_bad_one_leaves_those_before_and_shows(watched: Watched, content: str | None, said: str) -> None:
    await watched.file.load()
    if content is None:
        watched.path.unlink()
    else:
        watched.path.write_text(content)
    with capture_logs() as logs:
        for _ in range(3):
            await watched.file.refresh()
    assert watched.name == "web"
    assert watched.loads == (1 if content is None else 2), "a bad one is not read again and again"
    assert [each["event"] for each in logs] == ["policies not taken, those before stay"]
    assert said in logs[0]["error"]
    health, text = watched.said()["policies"]
    assert health is Health.DEGRADED
    assert said in text
    write_policies(watched.path, {**POLICY, "name": "own"})
    await watched.file.refresh()
    assert watched.name == "own"
    assert watched.said()["policies"][0] is Health.GOOD


async def test_the_same_good_content_again_ends_the_trouble(watched: Watched) -> None:
    await watched.file.load()
    good = watched.path.read_text()
    for spoil in (lambda: watched.path.write_text("policies: []"), watched.path.unlink):
        spoil()
        await watched.file.refresh()
        assert watched.said()["policies"][0] is Health.DEGRADED
        watched.path.write_text(good)
        with capture_logs() as logs:
            for _ in range(2):
                await watched.file.refresh()
        assert [each["event"] for each in logs] == ["the policy file is good again"]
        assert watched.said()["policies"][0] is Health.GOOD
    assert watched.loads == 2, "what is at work is not taken again"


async def test_issuers_of_new_policies_are_asked_and_those_of_old_ones_no_longer(watched: Watched) -> None:
    write_policies(watched.path, FETCHED)
    await watched.file.load()
    write_policies(watched.path, {**FETCHED, "authorization": [OPEN]})
    await watched.file.refresh()
    await watched.clock.advance(0)
    assert watched.asked == [ISSUER], "the keys stay over a reload"
    assert watched.said()[f"keys of {ISSUER}"][0] is Health.GOOD
    write_policies(watched.path, {**FETCHED, "jwtRules": [{"issuer": "https://other.test"}]})
    await watched.file.refresh()
    await watched.clock.advance(3600)
    assert set(watched.asked[1:]) == {"https://other.test"}
    assert f"keys of {ISSUER}" not in watched.said()


async def test_an_issuer_that_is_down_degrades_and_never_more(watched: Watched) -> None:
    watched.error = InvalidArgument(Reason.JWKS_MALFORMED, "no key set")
    write_policies(watched.path, FETCHED)
    await watched.file.load()
    await watched.clock.advance(0)
    health, text = watched.said()[f"keys of {ISSUER}"]
    assert health is Health.DEGRADED
    assert "jwks_malformed" in text


async def test_a_refused_file_is_measured_until_a_good_one_is_there(watched: Watched) -> None:
    await watched.file.load()
    assert watched.measured() == {"citadel_agent_authz_policies_refused": 0}
    good = watched.path.read_text()
    for content, refused in (("policies: []", 1), (good, 0)):
        watched.path.write_text(content)
        await watched.file.refresh()
        assert watched.measured() == {"citadel_agent_authz_policies_refused": refused}


async def test_one_issuer_is_measured_once_and_by_its_worst_keys(watched: Watched) -> None:
    down = "https://down.test/keys"
    rules = [{"issuer": ISSUER, "jwksUri": down}]
    own = {**FETCHED, "name": "own", "selectors": [str(UID_1), "unix:gid:1"], "jwtRules": rules}
    write_policies(watched.path, own, FETCHED)
    await watched.file.load()
    name = f"citadel_agent_issuer_keys_degraded{ISSUER}"
    assert watched.measured()[name] == 1, "none is fetched yet"
    await watched.clock.advance(0)
    assert watched.measured()[name] == 0
    watched.down.add(down)
    await watched.clock.advance(3600)
    assert watched.measured()[name] == 1, "one of the two goes on with older keys"


async def until(clock: FakeClock, holds: Callable[[], bool]) -> None:
    """The file is read in a thread, which no clock moves."""
    async with asyncio.timeout(10):
        while not holds():
            await clock.advance(1)
            await asyncio.sleep(0.01)


async def _never(_source: KeySource) -> Answer:
    raise AssertionError("nobody is to be asked")
