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
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from citadel.errors import PermissionDenied, Reason
from citadel.peer import Caller, PeerCredentials
from citadel.selector import Selector
from sds.attest import unix
from sds.attest.unix import UnixAttestor
from sds.serve.callers import Attestation, Callers

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


async def test_the_digest_is_only_made_when_it_is_wanted(program: Path) -> None:
    with running(program) as caller:
        attestor = UnixAttestor()
        assert not values(await attestor.attest(caller, want_sha256=False), "sha256")
        assert not attestor._digests
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


async def test_a_path_that_names_another_file_here_is_left_out(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As seen from a caller in a mount namespace of its own, where anything can lie at any path."""
    with running(program) as caller:
        monkeypatch.setattr(unix.Path, "readlink", lambda _: Path("/etc/passwd"))
        attestation = await UnixAttestor().attest(caller, want_sha256=True)
    assert not values(attestation, "path")
    assert values(attestation, "sha256") == {f"sha256:{sha256(program)}"}


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


class CountingAttestor:
    def __init__(self) -> None:
        self.asked: list[bool] = []

    async def attest(self, caller: Caller, *, want_sha256: bool) -> Attestation:
        self.asked.append(want_sha256)
        return Attestation(selectors=frozenset({Selector("unix", f"pid:{caller.credentials.pid}")}))


async def test_a_connection_is_attested_once_and_again_when_the_digest_becomes_wanted() -> None:
    attestor = CountingAttestor()
    callers = Callers(source=None, attestor=attestor)  # type: ignore[arg-type] # not asked here
    one, two = (Caller(PeerCredentials(1, 0, 0), -1) for _ in range(2))
    for wanted in (False, False, True, True, False):
        await callers.attest(one, want_sha256=wanted)
    assert attestor.asked == [False, True]
    await callers.attest(two, want_sha256=False)  # the same pid on another connection is another caller
    assert attestor.asked == [False, True, False]
