from __future__ import annotations

import asyncio
import contextlib
import grp
import hashlib
import os
import pwd
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
import structlog

from citadel.errors import PermissionDenied, Reason
from citadel.peer import Caller, PeerCredentials
from citadel.selector import Selector
from sds.attest import unix
from sds.attest.unix import UnixAttestor
from sds.serve.callers import LOOK_AGAIN, Attestation, Callers
from tests.clock import FakeClock

SLEEP = shutil.which("sleep") or "/bin/sleep"


@contextlib.contextmanager
def running(program: Path, **credentials: int) -> Iterator[Caller]:
    """A caller that runs `program`, which is a copy of sleep(1)."""
    with subprocess.Popen([program, "60"], executable=program) as process:
        known = PeerCredentials(process.pid, credentials.get("uid", os.geteuid()), credentials.get("gid", os.getegid()))
        caller = Caller(known, os.pidfd_open(process.pid))
        try:
            yield caller
        finally:
            caller.close()
            process.kill()


def myself() -> Caller:
    return Caller(PeerCredentials(os.getpid(), os.geteuid(), os.getegid()), os.pidfd_open(os.getpid()))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def values(attestation: Attestation, kind: str) -> set[str]:
    return {each.value for each in attestation.selectors if each.value.startswith(f"{kind}:")}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return Path(shutil.copy(SLEEP, tmp_path / "program"))


async def test_all_that_is_known_of_this_very_process() -> None:
    caller = myself()
    attestation = await UnixAttestor().attest(caller, want_sha256=True)
    caller.close()
    executable = Path(sys.executable).resolve()
    expected = {
        f"uid:{os.geteuid()}",
        f"gid:{os.getegid()}",
        f"user:{pwd.getpwuid(os.geteuid()).pw_name}",
        f"group:{grp.getgrgid(os.getegid()).gr_name}",
        f"path:{executable}",
        f"sha256:{sha256(executable)}",
    }
    assert attestation.selectors == {Selector("unix", value) for value in expected}
    assert attestation.executable == str(executable)
    assert not attestation.unseen


async def test_the_digest_is_only_made_when_it_is_wanted(program: Path) -> None:
    with running(program) as caller:
        attestor = UnixAttestor()
        assert not values(await attestor.attest(caller, want_sha256=False), "sha256")
        assert not attestor._digests
        assert (await attestor.attest(caller, want_sha256=False)).unseen == {"unix:sha256"}
        assert values(await attestor.attest(caller, want_sha256=True), "sha256") == {f"sha256:{sha256(program)}"}


async def test_copies_of_a_program_differ_by_path_and_not_by_digest(tmp_path: Path, program: Path) -> None:
    copy = Path(shutil.copy(SLEEP, tmp_path / "another name"))
    attestor = UnixAttestor()
    with running(program) as one, running(copy) as two:
        first = await attestor.attest(one, want_sha256=True)
        second = await attestor.attest(two, want_sha256=True)
    assert values(first, "path") == {f"path:{program}"}
    assert values(second, "path") == {f"path:{copy}"}
    assert values(first, "sha256") == values(second, "sha256")


async def test_a_program_reached_by_a_link_is_known_by_its_own_path(tmp_path: Path, program: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(program)
    with running(link) as caller:
        assert values(await UnixAttestor().attest(caller, want_sha256=False), "path") == {f"path:{program}"}


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_a_file_that_is_no_longer_there_vouches_for_nothing(program: Path, how: str) -> None:
    with running(program) as caller:
        program.unlink()
        if how == "replaced":
            shutil.copy(SLEEP, program)
        attestation = await UnixAttestor().attest(caller, want_sha256=True)
    assert not values(attestation, "path")
    assert not values(attestation, "sha256")
    assert values(attestation, "uid")
    assert attestation.unseen == {"unix:path", "unix:sha256"}


async def test_a_path_that_names_another_file_here_is_left_out(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As seen from a caller in a mount namespace of its own, where anything can lie at any path."""
    with running(program) as caller:
        monkeypatch.setattr(unix.Path, "readlink", lambda _: Path("/etc/passwd"))
        attestation = await UnixAttestor().attest(caller, want_sha256=True)
    assert not values(attestation, "path")
    assert values(attestation, "sha256") == {f"sha256:{sha256(program)}"}
    assert attestation.unseen == {"unix:path"}


async def test_a_path_that_no_entry_can_name_gives_no_selector(tmp_path: Path) -> None:
    with running(Path(shutil.copy(SLEEP, tmp_path / "line\nbreak"))) as caller:
        attestation = await UnixAttestor().attest(caller, want_sha256=False)
    assert not values(attestation, "path")
    assert values(attestation, "uid")


async def test_ids_without_a_name_are_still_ids(program: Path) -> None:
    with running(program, uid=4_000_000_001, gid=4_000_000_002) as caller:
        attestation = await UnixAttestor().attest(caller, want_sha256=False)
    assert values(attestation, "uid") == {"uid:4000000001"}
    assert values(attestation, "gid") == {"gid:4000000002"}
    assert not values(attestation, "user")
    assert not values(attestation, "group")
    assert {"unix:user", "unix:group"} < attestation.unseen


async def test_a_process_that_ended_is_refused_whoever_has_its_pid_now(program: Path) -> None:
    with running(program) as caller:
        os.kill(caller.credentials.pid, 9)
        await asyncio.to_thread(os.waitid, os.P_PID, caller.credentials.pid, os.WEXITED | os.WNOWAIT)
        # The number now reads as a living process: this one.
        reused = Caller(PeerCredentials(os.getpid(), 0, 0), os.dup(caller.fileno()))
        with pytest.raises(PermissionDenied) as refused:
            await UnixAttestor().attest(reused, want_sha256=True)
        reused.close()
    assert refused.value.reason is Reason.CALLER_UNKNOWN


async def test_an_executable_that_may_not_be_read_is_no_error_and_said_once(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: Path) -> Path:
        raise PermissionError

    monkeypatch.setattr(unix.Path, "readlink", denied)
    attestor = UnixAttestor()
    with running(program) as caller, structlog.testing.capture_logs() as logs:
        for _ in range(3):
            attestation = await attestor.attest(caller, want_sha256=True)
    assert values(attestation, "uid")
    assert not values(attestation, "path") | values(attestation, "sha256")
    assert {"unix:path", "unix:sha256"} <= attestation.unseen
    assert len(logs) == 1


async def test_a_file_is_hashed_once_for_all_that_run_it(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[object] = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: hashed.append(file) or real(file, name))
    attestor = UnixAttestor()
    with running(program) as one, running(program) as two:
        await asyncio.gather(*(attestor.attest(each, want_sha256=True) for each in (one, two, one)))
    assert len(hashed) == 1


async def test_a_file_that_was_changed_in_place_is_hashed_anew(program: Path) -> None:
    attestor = UnixAttestor()
    with running(program) as caller:
        before = values(await attestor.attest(caller, want_sha256=True), "sha256")
    with program.open("ab") as file:
        file.write(b"x")
    with running(program) as caller:
        after = values(await attestor.attest(caller, want_sha256=True), "sha256")
    assert after == {f"sha256:{sha256(program)}"}
    assert before.isdisjoint(after)


async def test_a_file_too_large_to_be_a_program_is_not_hashed(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix, "_MAX_HASHED_BYTES", 100)
    with running(program) as caller:
        attestation = await UnixAttestor().attest(caller, want_sha256=True)
    assert not values(attestation, "sha256")
    assert values(attestation, "path")
    assert attestation.unseen == {"unix:sha256"}


async def test_a_file_that_takes_long_to_hash_holds_up_no_other(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Path(shutil.copy(SLEEP, tmp_path / "slow"))
    go_on, real = threading.Event(), hashlib.file_digest

    def digest(file: BinaryIO, name: str) -> object:
        if os.fstat(file.fileno()).st_ino == slow.stat().st_ino:
            assert go_on.wait(10)
        return real(file, name)

    monkeypatch.setattr(hashlib, "file_digest", digest)
    attestor = UnixAttestor()
    with running(slow) as one, running(program) as other:
        waiting = [asyncio.create_task(attestor.attest(one, want_sha256=True)) for _ in range(10)]
        await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            for _ in ("hashed", "known"):
                assert values(await attestor.attest(other, want_sha256=True), "sha256")
        assert not any(task.done() for task in waiting)
        go_on.set()
        for attestation in await asyncio.gather(*waiting):
            assert values(attestation, "sha256") == {f"sha256:{sha256(slow)}"}
    assert not attestor._turns
    attestor.close()


async def test_a_directory_service_that_hangs_takes_no_threads_from_others(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(pwd, "getpwuid", lambda _: go_on.wait(10) and None)
    attestor = UnixAttestor()
    with running(program) as caller:
        waiting = [asyncio.create_task(attestor.attest(caller, want_sha256=False)) for _ in range(64)]
        await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(lambda: "served") == "served"
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    go_on.set()
    attestor.close()


@pytest.mark.parametrize("missing", ["user", "group"])
async def test_a_name_that_nobody_tells_leaves_the_attestation_incomplete(
    program: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    attestor = UnixAttestor()
    uid, gid = os.geteuid(), os.getegid()
    with running(program) as caller:
        with monkeypatch.context() as patched:
            patched.setattr(*((pwd, "getpwuid") if missing == "user" else (grp, "getgrgid")), {}.__getitem__)
            early = await attestor.attest(caller, want_sha256=False)
        late = await attestor.attest(caller, want_sha256=False)
    assert not early.is_complete
    assert values(early, "path")
    assert not values(early, missing)
    assert f"unix:{missing}" in early.unseen
    assert late.is_complete
    name = pwd.getpwuid(uid).pw_name if missing == "user" else grp.getgrgid(gid).gr_name
    assert values(late, missing) == {f"{missing}:{name}"}


async def test_a_file_that_changes_while_it_is_hashed_leaves_the_attestation_incomplete(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = hashlib.file_digest

    def digest(file: BinaryIO, name: str) -> object:
        os.utime(program)
        return real(file, name)

    attestor = UnixAttestor()
    with running(program) as caller:
        with monkeypatch.context() as patched:
            patched.setattr(hashlib, "file_digest", digest)
            early = await attestor.attest(caller, want_sha256=True)
        late = await attestor.attest(caller, want_sha256=True)
    assert (early.is_complete, late.is_complete) == (False, True)
    assert not values(early, "sha256")
    assert values(late, "sha256") == {f"sha256:{sha256(program)}"}


class FakeAttestor:
    """Sees `seen`, and the digest where it is wanted; notes whether it was."""

    def __init__(self) -> None:
        self.asked: list[bool] = []
        self.seen = {"uid:1"}
        self.is_complete = True

    async def attest(self, caller: Caller, *, want_sha256: bool) -> Attestation:
        del caller
        self.asked.append(want_sha256)
        seen = self.seen | ({"sha256:ab"} if want_sha256 else set())
        return Attestation(selectors=unix._selectors(seen), is_complete=self.is_complete)


class TestCallers:
    @pytest.fixture
    def attestor(self) -> FakeAttestor:
        return FakeAttestor()

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def callers(self, attestor: FakeAttestor, clock: FakeClock) -> Callers:
        return Callers(source=None, attestor=attestor, clock=clock)  # type: ignore[arg-type] # not asked here

    @staticmethod
    def connection() -> Caller:
        return Caller(PeerCredentials(1, 0, 0), -1)

    async def test_a_connection_is_attested_once_and_again_when_the_digest_becomes_wanted(
        self, callers: Callers, attestor: FakeAttestor
    ) -> None:
        one, two = self.connection(), self.connection()
        for wanted in (False, False, True, True, False):
            await callers.attest(one, wants_sha256=lambda _, wanted=wanted: wanted)
        assert attestor.asked == [False, True]
        await callers.attest(two, wants_sha256=lambda _: False)  # the same pid on another connection is another caller
        assert attestor.asked == [False, True, False]

    async def test_whether_the_digest_is_wanted_is_decided_by_what_else_was_seen(
        self, callers: Callers, attestor: FakeAttestor
    ) -> None:
        asked: list[frozenset[Selector]] = []
        await callers.attest(self.connection(), wants_sha256=lambda seen: asked.append(seen) is not None)
        assert asked == [frozenset({Selector("unix", "uid:1")})]
        assert attestor.asked == [False]

    async def test_an_incomplete_one_is_served_and_made_again_after_a_while_until_it_is_complete(
        self, callers: Callers, attestor: FakeAttestor, clock: FakeClock
    ) -> None:
        caller = self.connection()
        attestor.is_complete = False
        for _ in range(3):
            assert values(await callers.attest(caller, wants_sha256=lambda _: True), "sha256")
        assert attestor.asked == [False, True]
        await clock.advance(LOOK_AGAIN - 0.1)
        await callers.attest(caller, wants_sha256=lambda _: True)
        assert attestor.asked == [False, True]
        await clock.advance(0.1)
        attestor.seen, attestor.is_complete = {"uid:1", "user:web"}, True
        assert values(await callers.attest(caller, wants_sha256=lambda _: True), "user")
        await clock.advance(10 * LOOK_AGAIN)
        await callers.attest(caller, wants_sha256=lambda _: True)
        assert attestor.asked == [False, True, True]

    @pytest.mark.invariant(5)
    async def test_what_was_seen_is_not_lost_because_it_cannot_be_seen_now(
        self, callers: Callers, attestor: FakeAttestor, clock: FakeClock
    ) -> None:
        caller = self.connection()
        attestor.seen, attestor.is_complete = {"uid:1", "user:web"}, False
        await callers.attest(caller, wants_sha256=lambda _: False)
        attestor.seen = {"uid:1"}
        await clock.advance(LOOK_AGAIN)
        assert values(await callers.attest(caller, wants_sha256=lambda _: False), "user") == {"user:web"}
        assert len(attestor.asked) == 2
