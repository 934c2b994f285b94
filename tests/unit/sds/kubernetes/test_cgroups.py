"""Which pod a cgroup's path means, and which it never means."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from citadel.errors import PermissionDenied, Reason
from sds.attest.kubernetes import cgroups
from sds.attest.kubernetes.cgroups import Placement, placement
from tests.kube_cgroups import ANOTHER, CONTAINER, NODE, OTHER, POD, STATIC, plain, sliced, v1, v2

SERVICE = v2("/system.slice/citadel-agent.service")
IN_POD = Placement(POD, CONTAINER)
CONTAINERD = f"/cri-containerd-{CONTAINER}.scope"
NO_NEWLINES = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # at which Python would end a line too
JOINED = f"kubepods-besteffort-pod{POD.replace('-', '_')}.slice:cri-containerd:{CONTAINER}"


def paths(text: str) -> Mapping[str, cgroups.Path]:
    return cgroups.paths(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(v2(sliced(quality="burstable") + CONTAINERD), id="containerd, systemd, burstable"),
        pytest.param(v2(sliced(quality="besteffort") + CONTAINERD), id="containerd, systemd, besteffort"),
        pytest.param(v2(sliced() + CONTAINERD), id="containerd, systemd, guaranteed"),
        pytest.param(v2(plain(quality="burstable") + f"/{CONTAINER}"), id="containerd, cgroupfs, burstable"),
        pytest.param(v2(plain() + f"/{CONTAINER}"), id="containerd, cgroupfs, guaranteed"),
        pytest.param(v2(f"/{JOINED}"), id="containerd without systemd below a kubelet with it"),
        pytest.param(v2(sliced() + f"/crio-{CONTAINER}.scope"), id="CRI-O, systemd"),
        pytest.param(v2(sliced() + f"/crio-{CONTAINER}.scope/container"), id="CRI-O with crun"),
        pytest.param(v2(plain(quality="besteffort") + f"/crio-{CONTAINER}"), id="CRI-O, cgroupfs"),
        pytest.param(v2(sliced() + f"/docker-{CONTAINER}.scope"), id="cri-dockerd, systemd"),
        pytest.param(v2(plain() + f"/{CONTAINER}"), id="cri-dockerd, cgroupfs"),
        pytest.param(v2(sliced() + CONTAINERD + "/init.scope"), id="systemd in the container"),
        pytest.param(v1(sliced(quality="burstable") + CONTAINERD), id="version 1, systemd"),
        pytest.param(v1(plain(quality="burstable") + f"/{CONTAINER}"), id="version 1, cgroupfs"),
        pytest.param(
            v1(plain() + f"/{CONTAINER}", unified="/system.slice/containerd.service", pids="/"),
            id="both versions, and a controller that is not used",
        ),
        pytest.param(v1(sliced() + CONTAINERD, unified=sliced() + CONTAINERD), id="both versions, used alike"),
        pytest.param(v2(sliced(above="kubelet") + CONTAINERD), id="kind"),
        pytest.param(v2(f"/kubelet{plain()}/{CONTAINER}"), id="kind, cgroupfs"),
        pytest.param(v2(f"/../../kubepods-pod{POD.replace('-', '_')}.slice{CONTAINERD}"), id="beside the agent's pod"),
        pytest.param(v2(f"/../..{plain()}/{CONTAINER}"), id="from a container that is in no pod"),
        pytest.param(
            v2(f"/../../..{sliced(quality='besteffort')[len('/kubepods.slice') :]}{CONTAINERD}"),
            id="of another quality",
        ),
        pytest.param(v2(f"/../../pod{POD}/{CONTAINER}"), id="beside the agent's pod, cgroupfs"),
        pytest.param(v2(f"/../../../besteffort/pod{POD}/{CONTAINER}"), id="of another quality, cgroupfs"),
        pytest.param(v2(f"/../../../../kubelet{plain()}/{CONTAINER}"), id="kind, from a container beside it"),
    ],
)
def test_a_pod_is_known_by_the_path_that_its_runtime_makes(text: str) -> None:
    assert placement(paths(text), paths(SERVICE)) == IN_POD


@pytest.mark.parametrize(
    ("text", "own"),
    [
        (v1(f"/docker/{NODE}/kubelet{plain()}/{CONTAINER}"), v1(f"/docker/{NODE}/kubelet{plain(OTHER)}/{ANOTHER}")),
        (v2(f"/docker/{NODE}{plain()}/{CONTAINER}"), v2(f"/docker/{NODE}/system.slice/citadel-agent.service")),
        (v2(f"/system.slice/containerd.service/{JOINED}"), v2("/system.slice/containerd.service/agent")),
        (v2(f"/lab{plain()}/{CONTAINER}"), v2(f"/lab{plain(OTHER)}/{ANOTHER}")),
    ],
    ids=["kind", "a service in a node that is a container", "containerd's own cgroup", "cgroupRoot"],
)
def test_pods_may_lie_below_what_the_agent_is_in_too(text: str, own: str) -> None:
    assert placement(paths(text), paths(own)) == IN_POD
    with pytest.raises(PermissionDenied) as refused:
        placement(paths(text), paths(v1("/elsewhere") + v2("/elsewhere")))
    assert refused.value.reason is Reason.POD_UNSEEN


@pytest.mark.parametrize("text", [v2(sliced(STATIC) + CONTAINERD), v2(f"{plain(STATIC)}/{CONTAINER}")])
def test_a_pod_that_kubelet_runs_by_itself_has_a_uid_without_dashes(text: str) -> None:
    assert placement(paths(text), paths(SERVICE)) == Placement(STATIC, CONTAINER)


@pytest.mark.parametrize(
    "text",
    [
        v2("/"),
        v2("/init.scope"),
        v2("/user.slice/user-1000.slice/session-1.scope"),
        v2("/system.slice/podman.service"),
        v2(f"/docker/{CONTAINER}"),
        v2(f"/podman/{CONTAINER}"),
        v2(f"/user.slice/pod{POD}/{CONTAINER}"),
        v2(f"/system.slice/app-pod{POD.replace('-', '_')}.slice"),
        v2("/kubepods.slice/kubepods-burstable.slice"),
        v2(sliced() + f"/crio-conmon-{CONTAINER}.scope"),
        v2(plain() + f"/crio-conmon-{CONTAINER}"),
        v2(f"/../cri-containerd-{CONTAINER}.scope"),
        v1("/"),
        "",
        "no line of a kernel\n",
    ],
)
def test_what_is_in_no_pod_is_told_apart(text: str) -> None:
    assert placement(paths(text), paths(SERVICE)) is None


@pytest.mark.parametrize(
    "nested",
    [
        sliced(OTHER) + f"/cri-containerd-{ANOTHER}.scope",
        f"{plain(OTHER)}/{ANOTHER}",
        f"/pod{OTHER}/{ANOTHER}",
        f"/{ANOTHER}",
    ],
)
@pytest.mark.parametrize("outer", [sliced(quality="burstable") + CONTAINERD, f"{plain()}/{CONTAINER}"])
def test_what_a_pod_makes_below_itself_never_counts(outer: str, nested: str) -> None:
    for text in (v2(outer + nested), v1(outer + nested), v1(outer, pids=outer + nested)):
        assert placement(paths(text), paths(SERVICE)) == IN_POD


@pytest.mark.parametrize("end", NO_NEWLINES)
def test_a_name_in_which_a_line_seems_to_end_holds_no_line_of_its_own(end: str) -> None:
    forged = f"x{end}{v2(sliced(OTHER))}/cri-containerd-{ANOTHER}.scope".replace("\n", "")
    assert placement(paths(v2(f"{sliced()}{CONTAINERD}/{forged}")), paths(SERVICE)) == IN_POD
    with pytest.raises(PermissionDenied, match="where this node has none"):
        placement(paths(v2(f"/user.slice/user-1000.slice/{forged}")), paths(SERVICE))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (v1(f"{plain()}/{CONTAINER}", memory=f"{plain(OTHER)}/{CONTAINER}"), "different pods"),
        (v1(f"{plain()}/{CONTAINER}", memory=f"{plain()}/{ANOTHER}"), "different pods or containers"),
        (v1(f"{plain()}/{CONTAINER}", memory=plain()), "different pods or containers"),
        (v1(f"{plain()}/{CONTAINER}", unified=f"{plain(OTHER)}/{ANOTHER}"), "different pods"),
        (v2(f"/user.slice/user-1000.slice/user@1000.service{plain()}/{CONTAINER}"), "where this node has none"),
        (v2(f"/user.slice/user-1000.slice/user@1000.service{sliced()}{CONTAINERD}"), "where this node has none"),
        (v2(f"/system.slice/web.service/{JOINED}"), "where this node has none"),
        (v2(f"/docker/{NODE}{plain()}/{CONTAINER}"), "where this node has none"),
        (v2(f"/../../../user.slice/user-1000.slice{plain()}/{CONTAINER}"), "where this node has none"),
        (v2(f"/../../{NODE}{sliced()}{CONTAINERD}"), "where this node has none"),
        (v2(f"/../pod{POD}/{CONTAINER}"), "where this node has none"),
        (v2(f"/../cri-containerd-{ANOTHER}.scope{sliced()}{CONTAINERD}"), "where this node has none"),
        (v2(f"/kubepods-pod{POD.replace('-', '_')}.slice{CONTAINERD}"), "where this node has none"),
        (
            v2(f"/kubepods.slice/other.slice/kubepods-pod{POD.replace('-', '_')}.slice{CONTAINERD}"),
            "where this node has none",
        ),
    ],
)
def test_a_path_that_somebody_else_can_have_made_is_refused(text: str, why: str) -> None:
    with pytest.raises(PermissionDenied, match=why) as refused:
        placement(paths(text), paths(SERVICE))
    assert refused.value.reason is Reason.POD_UNSEEN


@pytest.mark.parametrize(
    "text", [v2(sliced()), v2(plain()), v2(plain() + "/kata_overhead"), v2(plain() + f"/x-{CONTAINER}")]
)
def test_a_process_of_a_pod_that_is_in_none_of_its_containers_is_in_the_pod_alone(text: str) -> None:
    assert placement(paths(text), paths(SERVICE)) == Placement(POD)
