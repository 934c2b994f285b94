"""py-spiffe, a client that we did not write, works unchanged with our agent."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cli.workload.address import ADDRESS_VARIABLE
from tests.agents import running_agent
from tests.servers import Server
from tests.workloads import SOMEBODY_ELSE, Agent

pytestmark = pytest.mark.integration

CLIENT = Path(__file__).with_name("py_spiffe_client.py")


@pytest.fixture
async def node(server: Server, tmp_path: Path) -> AsyncIterator[Agent]:
    async with running_agent(server, tmp_path / "node") as running:
        yield Agent(server, running)


async def said(node: Agent, mode: str) -> list[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(CLIENT), mode),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {ADDRESS_VARIABLE: f"unix://{node.socket}"},
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, err.decode()
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.spec("WEP-23", "WAPI-16", "WAPI-29", "WAPI-43")
async def test_it_fetches_identities_and_bundles(node: Agent) -> None:
    await node.entry("/web", hint="internal")
    await node.entry("/job")
    (got,) = await said(node, "fetch")
    assert got == {
        "default": "spiffe://a.test/web",
        "chain": 2,
        "has_key": True,
        "svids": ["spiffe://a.test/web", "spiffe://a.test/job"],
        "context": ["spiffe://a.test/web", "spiffe://a.test/job"],
        "context_default": "spiffe://a.test/web",
        "authorities": 1,
    }


async def test_it_is_refused_where_there_is_no_identity(node: Agent) -> None:
    await node.entry("/other", SOMEBODY_ELSE)
    (got,) = await said(node, "refused")
    assert f"uid {os.geteuid()}" in got["refused"]


@pytest.mark.spec("WAPI-09")
async def test_its_source_follows_the_renewals(node: Agent) -> None:
    await node.entry("/web", x509_svid_ttl=timedelta(seconds=4))
    got = await said(node, "rotate")
    assert {each["spiffe_id"] for each in got} == {"spiffe://a.test/web"}
    assert len({each["serial"] for each in got}) == 3
    assert {each["bundles"] for each in got} == {1}


@pytest.mark.spec("WEP-23", "WAPI-31", "WAPI-32", "WAPI-33", "WAPI-36", "WAPI-38")
async def test_it_fetches_tokens_has_them_judged_and_validates_them_itself(node: Agent) -> None:
    await node.entry("/web")
    await node.entry("/job")
    (got,) = await said(node, "jwt")
    assert got == {
        "default": "spiffe://a.test/web",
        "audience": ["shop", "till"],
        "svids": ["spiffe://a.test/web", "spiffe://a.test/job"],
        "named": "spiffe://a.test/job",
        "judged": "spiffe://a.test/web",
        "validated": "spiffe://a.test/web",
        "authorities": 1,
        "refused": [True, True],
    }
