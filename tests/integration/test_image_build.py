"""What the Dockerfile does, done in a folder: every package by its hash, and a whole Citadel out of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.dockerfile import ROOT, stages, texts

pytestmark = [pytest.mark.integration, pytest.mark.soak]

CONFIG = """
trust_domain: a.test
data_dir: data
keys: {kek_env: CITADEL_KEK}
store_url_env: CITADEL_STORE_URL
"""
PROBE = "import asyncpg, hvac, kubernetes.aio.client, ca.store.database, cli.server_process, cli.agent_process"


@pytest.mark.timeout(600)
def test_its_steps_make_a_citadel_that_works(tmp_path: Path) -> None:
    source, optional = tmp_path / "src", tmp_path / "opt"
    source.mkdir()
    build, final = stages()
    for each in build:
        if each.name == "COPY":
            *sources, target = each.text.split()
            copy(sources, source / target)
        elif each.name == "RUN":
            subprocess.run(["sh", "-ec", each.text.replace("/opt/", f"{optional}/")], cwd=source, check=True)
    (environment,) = texts(final, "ENV")
    variables = dict(each.split("=", 1) for each in environment.replace("/opt/", f"{optional}/").split())
    variables["CITADEL_KEK"] = "A" * 43 + "="
    variables["CITADEL_STORE_URL"] = "postgresql://citadel:secret@database.test/citadel"
    (source / "server.yaml").write_text(CONFIG)

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=source, env=variables, capture_output=True, text=True, check=True)
        return done.stdout

    installed = optional / "citadel" / "bin"
    assert "valid for a server of a.test" in run(str(installed / "citadel"), "server", "validate", "-c", "server.yaml")
    assert "Usage" in run(str(installed / "citadel-cli"), "--help")
    where = run(str(installed / "python"), "-c", f"{PROBE}; print(ca.__file__)").strip()
    assert Path(where).is_relative_to(optional / "citadel")
    assert not list((optional / "citadel").rglob("pip-*.dist-info"))
    assert os.access(installed / "citadel", os.X_OK)


def copy(sources: list[str], target: Path) -> None:
    for name in sources:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, target, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy(path, target)
