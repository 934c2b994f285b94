"""What an agent needs to know pods, and that it needs nothing of it where it is not to know any."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import CollectorRegistry

from citadel.clock import SystemClock
from citadel.errors import InvalidArgument, Reason
from citadel.kubernetes.settings import ApiServerSettings
from citadel.probes import Health
from cli.agent_kubernetes import attesting, node_name
from sds.settings import KubernetesSettings
from tests.kube_script import answer, scripted_api

_SETTINGS: Final = """
trust_domain: a.test
data_dir: {folder}/data
probes: 127.0.0.1:0
join: {{string_file: {folder}/join, insecure_bootstrap: true}}
kubernetes: {kubernetes}
"""
_PROGRAM: Final = """
import sys
sys.modules["kubernetes"] = None
from cli.citadel import main
main()
"""


def test_without_the_name_of_its_node_an_agent_says_how_to_give_it() -> None:
    with pytest.raises(InvalidArgument, match=r"NODE.*spec\.nodeName") as refused:
        node_name(KubernetesSettings(node_name_env="NODE"), {"NODE_NAME": "n1", "NODE": ""})
    assert refused.value.reason is Reason.CONFIG_INVALID
    assert node_name(KubernetesSettings(), {"NODE_NAME": "n1"}) == "n1"


@pytest.mark.parametrize(
    ("kubernetes", "said"),
    [("{}", "pip install '.[kubernetes]'"), ("null", "join")],
    ids=["wanted", "not wanted"],
)
def test_the_package_is_needed_where_pods_are_to_be_known_and_only_there(
    tmp_path: Path, kubernetes: str, said: str
) -> None:
    settings = tmp_path / "agent.yaml"
    settings.write_text(_SETTINGS.format(folder=tmp_path, kubernetes=kubernetes))
    found = subprocess.run(
        [sys.executable, "-c", _PROGRAM, "agent", "validate", "--config", settings],
        capture_output=True,
        text=True,
        check=False,
        env={"NODE_NAME": "n1"},
    )
    assert found.returncode != 0
    assert said in found.stdout + found.stderr
    assert (".[kubernetes]" in found.stderr + found.stdout) is (kubernetes != "null")


async def test_what_cannot_be_read_anew_is_told_beside_what_is_refused(tmp_path: Path) -> None:
    async with scripted_api(tmp_path) as api:
        api.last = answer(401, {"message": "who?"})
        settings = KubernetesSettings(api=ApiServerSettings(kubeconfig=api.kubeconfig()))
        made = attesting(settings, SystemClock(), metrics=CollectorRegistry(), environment={"NODE_NAME": "n1"})
        async with made as its:
            assert its.check is not None
            (tmp_path / "ca.pem").write_bytes(b"")
            running = asyncio.create_task(its.work[0]())
            async with asyncio.timeout(10):
                while "what was read before counts (config_invalid)" not in (check := its.check()).text:
                    await asyncio.sleep(0.01)
                while "who?" not in (check := its.check()).text:
                    await asyncio.sleep(0.01)
            running.cancel()
    assert check.health is Health.DEGRADED
    assert "(kubernetes_login_refused), for " in check.text
    assert "what was read before counts (config_invalid); 0 pods are known, new ones wait" in check.text
