"""`citadel-cli k8s`: whether clusters and nodes of Kubernetes fit the settings. Needs no server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ca.kubernetes.check.facts import ServerFacts, Worked
from ca.kubernetes.settings import ClusterSettings
from ca.settings import ServerSettings
from citadel._wire import admin_pb2 as pb
from citadel._wire import types_pb2
from citadel.bundle import TrustBundle
from citadel.clock import Clock
from citadel.config.loader import load
from citadel.errors import CitadelError, InvalidArgument, Reason, Unavailable
from citadel.finding import Finding, is_fit
from citadel.kubernetes.settings import ApiServerSettings
from citadel.rpc import reason_of
from citadel.spiffe import TrustDomain
from citadel.wire import entry_from_wire
from cli.admin.entry import PAGE_SIZE, all_pages
from cli.admin.findings import conclude, plain_finding, print_findings, verdict_of
from cli.admin.invocation import CALL_SECONDS, Invocation, admin_command
from cli.admin.tables import print_heading
from cli.output import Form, print_json
from sds.settings import AgentSettings

if TYPE_CHECKING:
    from citadel._wire.admin_pb2_grpc import AdminAsyncStub  # exists for type checkers only

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group("k8s")
def k8s_group() -> None:
    """Kubernetes, as the settings of a server or an agent use it. Needs no server."""


@admin_command("check", group=k8s_group, example="citadel-cli k8s check -c server.yaml --kubeconfig ~/.kube/config")
@click.option("--config", "-c", type=_FILE, help="The YAML file with the settings of the server.")
@click.option("--agent-config", type=_FILE, help="That of an agent, to look at this node.")
@click.option("--cluster", "names", multiple=True, help="Look at this cluster of the settings alone; may be repeated.")
@click.option("--kubeconfig", type=_FILE, help="Ask by this one in the place of that in the settings.")
@click.option("--context", help="The context of the kubeconfig, in the place of its current one.")
@click.option(
    "--service-account",
    "account",
    help="NAMESPACE/NAME of the server, to look at its permissions, secrets and pods as an administrator.",
)
def check_command(
    invocation: Invocation,
    *,
    config: Path | None,
    agent_config: Path | None,
    names: tuple[str, ...],
    kubeconfig: Path | None,
    context: str | None,
    account: str | None,
) -> None:
    """Tell whether a server and its agents would work in a cluster, and what to do; before and after an install.

    It changes nothing there. Ends with code 8 where they would not work; warnings alone end with 0, and so does what
    is not installed yet.
    """
    if config is None and agent_config is None:
        raise click.UsageError("name --config, --agent-config or both")
    if account is not None and not all(account.partition("/")):
        raise click.UsageError("--service-account is a namespace and a name, such as citadel/citadel-server")
    clusters = _clusters(config, names) if config is not None else ()
    if (kubeconfig or context) and len(clusters) > 1:
        raise click.UsageError("--kubeconfig and --context are of one cluster: name it by --cluster")
    clusters = tuple(_elsewhere(each, kubeconfig, context) for each in clusters)
    agent = load(agent_config, AgentSettings) if agent_config is not None else None
    if agent is not None and agent.kubernetes is not None:
        api = _api(agent.kubernetes.api, kubeconfig, context)
        agent = agent.model_copy(update={"kubernetes": agent.kubernetes.model_copy(update={"api": api})})
    server = _server(invocation) if clusters else None
    found = asyncio.run(_look(clusters, agent, account, server, invocation.clock))
    everything = [each for findings in found.values() for each in findings]
    if invocation.form is Form.JSON:
        _print_json(found)
    else:
        _print(found, everything)
    conclude(everything, who="what these settings ask for", otherwise=Reason.KUBERNETES_REFUSED)


async def _look(
    clusters: Sequence[ClusterSettings],
    agent: AgentSettings | None,
    account: str | None,
    server: ServerFacts | CitadelError | None,
    clock: Clock,
) -> Mapping[str, Sequence[Finding]]:
    # The other commands start without what speaks to an agent or an API server.
    from cli.kubernetes_check import Looking, look_at_clusters, look_at_node  # noqa: PLC0415

    looking = Looking(clock=clock, account=account, server=server)
    found = {f"cluster {name}": each for name, each in (await look_at_clusters(clusters, looking)).items()}
    if agent is not None:
        found["this node"] = await look_at_node(agent, clock, audience=_audience(clusters, agent))
    return found


def _clusters(path: Path, names: tuple[str, ...]) -> tuple[ClusterSettings, ...]:
    settings = load(path, ServerSettings)
    if settings.kubernetes is None:
        fix = "set `kubernetes`, as deploy/kubernetes.yaml shows it"
        raise InvalidArgument(Reason.CONFIG_INVALID, f"{path} does not use Kubernetes", fix=fix)
    clusters = settings.kubernetes.clusters
    if unknown := set(names) - {each.name for each in clusters}:
        raise click.UsageError(f"{path} has no cluster {min(unknown)}")
    return tuple(each for each in clusters if not names or each.name in names)


def _elsewhere(cluster: ClusterSettings, kubeconfig: Path | None, context: str | None) -> ClusterSettings:
    return cluster.model_copy(update={"api": _api(cluster.api, kubeconfig, context)})


def _api(api: ApiServerSettings, kubeconfig: Path | None, context: str | None) -> ApiServerSettings:
    if kubeconfig is not None:
        return ApiServerSettings(kubeconfig=kubeconfig, context=context)
    return api.model_copy(update={"context": context}) if context is not None else api


def _audience(clusters: Sequence[ClusterSettings], agent: AgentSettings) -> str | None:
    """What the server expects of this agent's token, where its settings are known."""
    psat = agent.join.k8s_psat
    named = (each.joining for each in clusters if psat is not None and each.name == psat.cluster)
    return next((each.audience for each in named if each is not None), None)


def _server(invocation: Invocation) -> ServerFacts | CitadelError:
    """What the server that runs says, or why it cannot be asked from here."""

    async def ask(admin: AdminAsyncStub) -> tuple[types_pb2.Bundle, pb.Status, list[types_pb2.Entry]]:
        bundle = await admin.GetOwnBundle(pb.GetOwnBundleRequest(), timeout=CALL_SECONDS)
        status = await admin.GetStatus(pb.GetStatusRequest(), timeout=CALL_SECONDS)
        return bundle, status, await all_pages(admin, pb.ListEntriesRequest(page_size=PAGE_SIZE))

    try:
        said, status, listed = invocation.ask(ask)
        bundle = TrustBundle.from_json(TrustDomain.parse(said.trust_domain), said.json)
    except CitadelError as error:
        return error
    return ServerFacts(
        bundle=bundle,
        clusters={each.cluster: _worked(each) for each in status.kubernetes},
        entries=tuple(entry_from_wire(each) for each in listed if not each.origin),
    )


def _worked(status: pb.KubernetesStatus) -> Worked:
    pods = status.workloads if status.HasField("workloads") else None
    if pods is None:
        return Worked(trouble=_trouble(status))
    return Worked(
        trouble=_trouble(status),
        admitted=pods.admitted,
        entries=pods.entries,
        problems=pods.problems,
        shown=tuple(pods.shown),
    )


def _trouble(status: pb.KubernetesStatus) -> CitadelError | None:
    return None if status.good else Unavailable(reason_of(status.reason), status.message)


def _print(found: Mapping[str, Sequence[Finding]], everything: Sequence[Finding]) -> None:
    for place, findings in found.items():
        print_heading(place)
        print_findings(findings)
    if is_fit(everything):
        print_heading(verdict_of(everything, "it would work"))


def _print_json(found: Mapping[str, Sequence[Finding]]) -> None:
    checks = [{"place": place, **plain_finding(each)} for place, findings in found.items() for each in findings]
    print_json({"fits": all(is_fit(each) for each in found.values()), "checks": checks})
