"""Another root signs in a real OpenBao while real Envoys are under load: no request notices."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from citadel._wire import rotation_pb2
from citadel.config.files import write_private
from cli.demo.plan import TRUST_DOMAIN
from tests.integration.meshes import live_mesh, until
from tests.openbao import running_openbao
from tests.vault_pki import new_root

pytestmark = [pytest.mark.integration, pytest.mark.pairs]


async def test_no_request_fails_while_the_root_changes_in_vault(tmp_path: Path) -> None:
    async with running_openbao(tmp_path / "bao") as bao:
        mount = bao.pki("pki", trust_domain=TRUST_DOMAIN.name)
        write_private(tmp_path / "token", bao.root.token.encode())
        server = {
            "vault": bao.section(tmp_path / "token"),
            "upstream": {"vault": {"mount": mount, "poll": "200ms"}},
            "rotation": {"window": "1s", "margin": "500ms"},
        }
        async with live_mesh(leaf_seconds=60, as_root=os.geteuid() == 0, server=server) as mesh:
            async with mesh.under_load() as tally, mesh.rotations() as rotations:
                new_root(bao, mount, "second", uri_sans=str(TRUST_DOMAIN.id))
                bao.write(f"{mount}/root/replace", default="second")

                async def has_ended() -> bool:
                    view = await rotations.GetRotation(rotation_pb2.GetRotationRequest())
                    return (view.rotation.kind, view.rotation.phase, view.rotation.alarm) == ("root", "done", "")

                await until("the rotation has ended", has_ended, seconds=40)
                last = tally.done

                async def goes_on() -> bool:
                    return tally.done > last + 20

                await until("requests go on under the new one", goes_on, seconds=20)
            assert tally.failures == Counter()
