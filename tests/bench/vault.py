"""Certificates by the second with the root in Vault, and with all keys in it, beside what that OpenBao signs itself."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from citadel.config.files import write_private
from tests.bench.effort import Effort
from tests.bench.issuing import BATCH, BATCHES, SINGLES, beside_openbao, middle, told, warm
from tests.bench.load import Measured, make_mesh, measure
from tests.bench.machine import Cores
from tests.bench.openbao import openbao
from tests.bench.processes import server_process
from tests.bench.report import Row

_TRANSIT_GOAL: Final = 1_000


async def vault(folder: Path, cores: Cores, effort: Effort) -> list[Row]:
    """Servers with upstream `vault` and with keys in Transit; all of them share a core with OpenBao."""
    singles, batches, theirs, made_there, single_there = ([] for _ in range(5))
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(openbao(folder / "openbao", cores))
        peer.bao.mount("transit", "transit")
        token = folder / "token"
        write_private(token, peer.bao.root.token.encode())
        section = peer.bao.section(token)
        under, pid = await stack.enter_async_context(
            server_process(folder / "upstream", cores, vault=section, upstream={"vault": {"mount": "pki"}})
        )
        remote, remote_pid = await stack.enter_async_context(
            server_process(folder / "transit", cores, vault=section, keys={"vault_transit": {"mount": "transit"}})
        )
        mesh, remote_mesh = await make_mesh(under), await make_mesh(remote)
        sign = await stack.enter_async_context(peer.signing(in_flight=SINGLES))
        await warm(mesh, pid)
        await warm(remote_mesh, remote_pid)
        seconds = effort.seconds
        for _ in range(effort.rounds):
            singles.append(await measure(mesh.asking(1), in_flight=SINGLES, seconds=seconds, server=pid))
            theirs.append(await measure(sign, in_flight=SINGLES, seconds=seconds, server=peer.pid))
            batches.append(await measure(mesh.asking(BATCH), in_flight=BATCHES, seconds=seconds, server=pid))
            asking = remote_mesh.asking(BATCH)
            made_there.append(await measure(asking, in_flight=BATCHES, seconds=seconds, server=remote_pid))
            asking = remote_mesh.asking(1)
            single_there.append(await measure(asking, in_flight=SINGLES, seconds=seconds, server=remote_pid))
    return _rows(singles, batches, theirs, made_there, single_there)


def _rows(
    singles: list[Measured],
    batches: list[Measured],
    theirs: list[Measured],
    made_there: list[Measured],
    single_there: list[Measured],
) -> list[Row]:
    return [
        *beside_openbao("upstream vault: ", singles, batches, theirs),
        Row(
            what=f"keys in Transit: certificates in batches of {BATCH}, {BATCHES} in flight",
            value=middle(made_there, "per_second"),
            unit="/s",
            goal=_TRANSIT_GOAL,
            note=f"server and OpenBao on one core: {told(made_there)}",
        ),
        Row(
            what=f"keys in Transit: single requests, {SINGLES} in flight",
            value=middle(single_there, "per_second"),
            unit="/s",
            note=told(single_there),
        ),
    ]
