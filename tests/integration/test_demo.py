"""`citadel demo` as a person runs it."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.alone]


async def run_demo(*options: str, temporary: Path) -> tuple[int, list[str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "cli.entry",
        "demo",
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(temporary)},
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode().splitlines()


@pytest.fixture
def temporary() -> Path:
    # Not pytest's own folder: sidecars of other users must be able to enter, and Unix socket paths are short.
    return Path("/tmp")  # noqa: S108 - the demo makes a folder of its own in it


async def test_the_main_job(temporary: Path) -> None:
    code, lines = await run_demo("--requests", "500", temporary=temporary)
    last = re.fullmatch(r"demo: (\d+) requests, 0 failed", lines[-1])
    assert last is not None, lines
    assert int(last[1]) >= 500
    assert code == 0, lines
    for name in ("productpage", "reviews"):
        rotated = re.search(rf"{name} +rotated (\d+) times, (\d+) TLS handshakes", "\n".join(lines))
        assert rotated is not None
        assert int(rotated[1]) >= 3
        assert int(rotated[2]) >= int(last[1]), "a new connection for each request"
    assert sum(line.startswith("  refused: ") for line in lines) == 5
    _shows_a_rotation_of_the_root(lines)
    _shows_a_signed_in_user(lines)


def _shows_a_rotation_of_the_root(lines: list[str]) -> None:
    phases = [line.split()[0] for line in lines if "of 2 proxies" in line]
    # The shortest phases are over before anybody looks, so they may be missing, but none is out of order.
    course = ["prepare", "observe", "activate", "renew", "drain", "retire", "settle", "done"]
    assert [phase for phase in course if phase in phases] == phases, lines
    assert {"observe", "drain", "done"} <= set(phases), "each of these takes a margin, or stays"
    # One that was renewed by itself, between the new authority's first moment and the order, was no more to be ordered.
    done = re.compile(r"  done .*by 2 of 2 proxies(, ([12]) of \2 SVIDs renewed)?")
    assert any(done.fullmatch(line) for line in lines), lines
    rotated = next(i for i, line in enumerate(lines) if line.startswith("  root        rotated in "))
    took = re.search(r"rotated in (\d+\.\d) s", lines[rotated])
    assert took is not None
    assert float(took[1]) < 5.0
    assert lines[rotated + 1].strip() == "productpage and reviews have certificates under it, and trust it alone"


def _shows_a_signed_in_user(lines: list[str]) -> None:
    assert [line.strip() for line in lines if line.startswith("  reviews v")] == [
        "reviews v1  for somebody who has not signed in",
        "reviews v2  for jason",
        "reviews v1  for alice",
        "reviews v1  for somebody who has not, and forged x-end-user: jason",
        "reviews v1  for alice, who forged x-end-user: jason",
        "reviews v2  for jason, who writes one",
    ]
    assert "  refused: somebody who has not signed in and writes one (401 sign_in_required)" in lines
    assert "  refused: a token for jason that somebody else signed (401 jwt_bad_signature)" in lines


@pytest.mark.soak  # the root in Vault under load: test_vault_pki_mesh
async def test_the_main_job_with_its_root_in_openbao(temporary: Path) -> None:
    code, lines = await run_demo("--vault", "--requests", "250", "--leaf-seconds", "5", temporary=temporary)
    assert code == 0, lines
    assert re.fullmatch(r"demo: \d+ requests, 0 failed", lines[-1])
    assert lines[1].startswith("The root is in an OpenBao")
    _shows_a_rotation_of_the_root(lines)


async def test_what_broke_is_said_and_the_exit_code_is_1(temporary: Path) -> None:
    code, lines = await run_demo("--requests", "500", "--most-seconds", "1", temporary=temporary)
    assert code == 1
    assert any("BROKEN: only" in line for line in lines)
    assert "the logs are in" in "\n".join(lines)
