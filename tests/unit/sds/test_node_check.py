"""What a node must have for an agent: its token, the processes of pods, its socket."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest

from sds.node_check import findings, look
from sds.settings import AgentSettings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def agent(folder: Path) -> AgentSettings:
    return AgentSettings.model_validate(
        {
            "trust_domain": "a.test",
            "data_dir": str(folder / "data"),
            "socket": str(folder / "agent.sock"),
            "join": {
                "servers": ["127.0.0.1:8443"],
                "bundle_file": "bundle.json",
                "k8s_psat": {"cluster": "main", "token_file": str(folder / "token")},
            },
            "kubernetes": {},
        }
    )


def token(**claims: Any) -> str:
    named = {"namespace": "citadel", "pod": {"name": "agent", "uid": "1"}}
    good = {"aud": ["citadel"], "exp": int((NOW + HOUR).timestamp()), "kubernetes.io": named}
    return jwt.encode({**good, **claims}, "a key of nobody, that is long enough", algorithm="HS256")


def processes(folder: Path, *cgroups: str) -> Path:
    for number, cgroup in enumerate(cgroups, start=2):
        (folder / "proc" / str(number)).mkdir(parents=True)
        (folder / "proc" / str(number) / "cgroup").write_text(f"0::{cgroup}\n")
    (folder / "proc" / "self").mkdir(parents=True)
    return folder / "proc"


async def found(folder: Path, *, cgroups: tuple[str, ...] = (), node: str = "node-1") -> dict[str, tuple[str, str]]:
    settings = agent(folder)
    facts = await look(settings, environ={"NODE_NAME": node}, proc=processes(folder, *cgroups))
    told = findings(facts, settings, audience="citadel", now=NOW)
    return {each.subject.value: (each.grade.value, each.found) for each in told}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (token(), ("good", "for citadel, good for 1h")),
        (token(aud="vault"), ("bad", "it is for vault, not for citadel")),
        (token(exp=int((NOW - HOUR).timestamp())), ("bad", "it ended 1h ago")),
        (token(**{"kubernetes.io": {"namespace": "citadel"}}), ("bad", "it is bound to no pod")),
        ("garbage", ("bad", "holds no token of a service account")),
        (None, ("bad", "cannot be read: No such file or directory")),
    ],
)
async def test_the_token_is_for_the_server_of_a_pod_and_good(
    tmp_path: Path, text: str | None, expected: tuple[str, str]
) -> None:
    if text is not None:
        (tmp_path / "token").write_text(text)
    grade, told = (await found(tmp_path))["token"]
    assert grade == expected[0]
    assert told.endswith(expected[1])


@pytest.mark.parametrize(
    ("cgroups", "grade"),
    [
        (("/init.scope", "/user.slice"), "warning"),
        (("/kubepods/besteffort/pod11111111-2222-3333-4444-555555555555/abc",), "good"),
        (("/kubepods.slice/kubepods-pod11111111_2222_3333_4444_555555555555.slice/cri-containerd-abc.scope",), "good"),
    ],
)
async def test_an_agent_that_sees_no_pod_may_lack_the_hosts_processes(
    tmp_path: Path, cgroups: tuple[str, ...], grade: str
) -> None:
    assert (await found(tmp_path, cgroups=cgroups))["processes"][0] == grade


async def test_nobody_at_the_socket_is_bad_and_a_name_that_is_not_set_here_unknown(tmp_path: Path) -> None:
    told = await found(tmp_path, node="")
    assert told["socket"][0] == "bad"
    assert told["node's name"] == ("unknown", "NODE_NAME is not set here; the agent needs it, from spec.nodeName")
