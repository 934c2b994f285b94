"""The wheel, installed: four import packages, one distribution, nothing missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PROBE = """
import importlib.metadata, importlib.resources, pathlib
owners = importlib.metadata.packages_distributions()
for room in ("citadel", "ca", "sds", "cli"):
    assert set(owners[room]) == {"citadel"}, (room, owners[room])
import ca.store.database, cli.citadel, cli.citadel_cli, cli.demo.envoy, citadel
assert pathlib.Path(citadel.__file__).is_relative_to(TARGET), citadel.__file__
assert (pathlib.Path(ca.store.database.__file__).parent / "migrations" / "env.py").is_file()
for name in ("client.yaml", "server.yaml"):
    assert (pathlib.Path(cli.demo.envoy.__file__).parent / "envoy_bootstraps" / name).is_file(), name
assert (pathlib.Path(cli.demo.envoy.__file__).parent / "vault_policies" / "upstream-rotate-root.hcl").is_file()
for room in ("citadel", "ca", "sds", "cli"):
    assert (TARGET / room / "py.typed").is_file(), room
print("whole")
"""


def test_the_installed_wheel_is_whole(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True, timeout=60
    )
    target = tmp_path / "installed"
    [wheel] = tmp_path.glob("*.whl")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", target, wheel],
        check=True,
        timeout=60,
    )
    probe = f"import pathlib; TARGET = pathlib.Path({str(target)!r})\n{PROBE}"
    done = subprocess.run(
        [sys.executable, "-P", "-c", probe],
        env={"PYTHONPATH": str(target), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.strip() == "whole", done.stderr
