"""`citadel-cli svid fetch` and `svid watch` as real processes, against a real agent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from citadel.svid import X509Svid, verify_x509_svid
from cli.workload.address import ADDRESS_VARIABLE
from tests.agents import running_agent
from tests.servers import Server
from tests.workloads import SOMEBODY_ELSE, Agent

pytestmark = pytest.mark.integration

PROGRAM = str(Path(sys.executable).with_name("citadel-cli"))


@pytest.fixture
async def node(server: Server, tmp_path: Path) -> AsyncIterator[Agent]:
    async with running_agent(server, tmp_path / "node") as running:
        yield Agent(server, running)


class Ended:
    def __init__(self, code: int, out: bytes, err: bytes) -> None:
        self.code, self.out, self.err = code, out.decode(), err.decode()


async def cli(node: Agent, *arguments: str) -> Ended:
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        "svid",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {ADDRESS_VARIABLE: f"unix://{node.socket}"},
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    return Ended(process.returncode or 0, out, err)


class Watch:
    """A running `svid watch`, read line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def change(self) -> dict[str, object]:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 20)
        document: dict[str, object] = json.loads(line)
        return document

    async def complaint(self) -> str:
        assert self.process.stderr is not None
        return (await asyncio.wait_for(self.process.stderr.readline(), 20)).decode()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 10)


@asynccontextmanager
async def watching(node: Agent, *arguments: str) -> AsyncIterator[Watch]:
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        *("-o", "json", "svid", "watch", "--socket", str(node.socket), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Watch(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def assert_good(folder: Path, node: Agent) -> X509Svid:
    """The folder holds one identity: certificate, key and roots belong together."""
    current = folder / "current"
    svid = X509Svid.from_pem((current / "svid.pem").read_bytes())
    key = load_pem_private_key((current / "key.pem").read_bytes(), None)
    assert key.public_key() == svid.leaf.public_key()
    bundle = node.server.bundle
    assert (current / "bundle.pem").read_bytes() == bundle.to_pem()
    verify_x509_svid(svid.chain_der, {bundle.trust_domain: bundle}, svid.not_before)
    return svid


async def test_fetch_shows_what_there_is_and_no_key(node: Agent) -> None:
    await node.entry("/web", hint="internal")
    shown = await cli(node, "fetch")
    assert shown.code == 0, shown.err
    assert "spiffe://a.test/web" in shown.out
    assert "internal" in shown.out
    plain = await cli(node, "fetch", "-o", "json")
    assert "PRIVATE KEY" not in shown.out + plain.out
    document = json.loads(plain.out)
    assert document["svids"][0]["spiffe_id"] == "spiffe://a.test/web"
    assert document["bundles"] == {"a.test": node.server.bundle.to_pem().decode()}


async def test_fetch_writes_files_that_belong_together_and_that_nobody_else_can_read(
    node: Agent, tmp_path: Path
) -> None:
    await node.entry("/web")
    folder = tmp_path / "identity"
    done = await cli(node, "fetch", "--write", str(folder))
    assert done.code == 0, done.err
    svid = assert_good(folder, node)
    assert (folder / "svid.pem").read_bytes() == svid.chain_pem
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert {path.name for path in (folder / "current").iterdir()} == {"svid.pem", "key.pem", "bundle.pem", "federated"}


async def test_fetch_of_a_certain_identity(node: Agent, tmp_path: Path) -> None:
    await node.entry("/web")
    await node.entry("/job")
    folder = tmp_path / "identity"
    done = await cli(node, "fetch", "--write", str(folder), "--spiffe-id", "spiffe://a.test/job")
    assert done.code == 0, done.err
    assert str(assert_good(folder, node).spiffe_id) == "spiffe://a.test/job"
    missing = await cli(node, "fetch", "--spiffe-id", "spiffe://a.test/none")
    assert (missing.code, "no_identity" in missing.err) == (4, True)


async def test_who_has_no_identity_or_no_agent_is_told_what_to_do(node: Agent, tmp_path: Path) -> None:
    await node.entry("/other", SOMEBODY_ELSE)
    denied = await cli(node, "fetch")
    assert (denied.code, "no_identity" in denied.err) == (6, True)
    assert f"uid {os.geteuid()}" in denied.err
    nobody = await cli(node, "fetch", "--socket", str(tmp_path / "none.sock"))
    assert (nobody.code, "server_unreachable" in nobody.err) == (7, True)
    assert ADDRESS_VARIABLE in nobody.err
    nonsense = await cli(node, "fetch", "--socket", "http://h")
    assert (nonsense.code, "config_invalid" in nonsense.err) == (3, True)
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    await node.entry("/web")
    unsafe = await cli(node, "fetch", "--write", str(folder))
    assert (unsafe.code, "file_unsafe" in unsafe.err) == (3, True)


async def test_watch_writes_every_renewal_whole_and_runs_the_command_after_it(node: Agent, tmp_path: Path) -> None:
    await node.entry("/web", x509_svid_ttl=timedelta(seconds=4))
    folder, log = tmp_path / "identity", tmp_path / "log"
    script = tmp_path / "hook"
    script.write_text(f"#!/bin/sh\nsha256sum < {folder}/current/svid.pem >> {log}\nexit 3\n")
    script.chmod(0o755)
    async with watching(node, "--write", str(folder), "--run", str(script)) as watch:
        for _ in range(3):
            change = await watch.change()
            assert change["svids"]
            assert "ended with 3" in await watch.complaint()  # after which it goes on
            assert_good(folder, node)
        assert await watch.stop() == 0
    assert len(log.read_text().splitlines()) >= 3
    assert len(set(log.read_text().splitlines())) == len(log.read_text().splitlines())
    assert len(list(folder.glob("svid-*"))) == 2  # this one, and the one before for those who still read it


@pytest.mark.spec("WAPI-27", "WEP-20", "WAPI-06")
async def test_watch_says_that_the_identity_is_gone_removes_nothing_and_takes_the_next(
    node: Agent, tmp_path: Path
) -> None:
    entry = await node.entry("/web")
    folder = tmp_path / "identity"
    async with watching(node, "--write", str(folder)) as watch:
        await watch.change()
        await node.delete(entry)
        assert json.loads(await watch.complaint())["error"]["reason"] == "no_identity"
        assert str(assert_good(folder, node).spiffe_id) == "spiffe://a.test/web"
        await node.entry("/next")
        await watch.change()
        assert str(assert_good(folder, node).spiffe_id) == "spiffe://a.test/next"
        assert await watch.stop(signal.SIGINT) == 0


async def test_two_watches_do_not_write_to_one_folder(node: Agent, tmp_path: Path) -> None:
    await node.entry("/web")
    folder = tmp_path / "identity"
    async with watching(node, "--write", str(folder)) as watch:
        await watch.change()
        second = await cli(node, "fetch", "--write", str(folder))
        assert (second.code, "data_dir_in_use" in second.err) == (8, True)
        assert await watch.stop() == 0
