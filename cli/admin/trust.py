"""`citadel-cli trust`: why two clusters do or do not trust each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from citadel._wire import trust_pb2 as pb
from citadel._wire.trust_pb2_grpc import TrustFactsStub
from citadel.errors import FailedPrecondition, Reason
from citadel.grade import Grade
from cli.admin.invocation import CALL_SECONDS, Invocation, admin_command
from cli.admin.tables import print_fields, print_heading, print_table
from cli.output import Form, echo, print_json
from cli.trust.check import Check, Side, Verdict, Way, verdict
from cli.trust.facts import ClusterFacts
from cli.trust.gather import gather, to_file
from cli.trust.rules import compare
from cli.trust.shared import counted

_CLUSTER = click.Path(path_type=Path)


@click.group("trust")
def trust_group() -> None:
    """Trust between clusters."""


@admin_command("export", group=trust_group, example="citadel-cli trust export --write east-facts.json")
@click.option(
    "--write",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this file instead of standard output.",
)
def export(invocation: Invocation, file: Path | None) -> None:
    """Print what `trust verify` needs of this cluster where it cannot reach it: public facts alone."""
    text = to_file(_ask(invocation))
    if file is None:
        echo(text, nl=False)
    else:
        file.write_text(text)


@admin_command("verify", group=trust_group, example="citadel-cli trust verify /run/citadel/admin.sock west-facts.json")
@click.argument("a", type=_CLUSTER)
@click.argument("b", type=_CLUSTER)
def verify(invocation: Invocation, a: Path, b: Path) -> None:
    """Tell why the clusters A and B do or do not trust each other, and what to do.

    Each is a server's admin socket, a file of `trust export`, or a folder with ca-cert.pem and root-cert.pem. Ends with
    code 8 where mutual TLS fails in either direction, or where that cannot be told.
    """

    def ask(socket: Path) -> pb.ClusterFacts:
        return _ask(replace(invocation, socket=socket))

    facts = [gather(path, ask=ask, now=invocation.clock.now) for path in (a, b)]
    checks = compare(*facts, now=invocation.clock.now())
    if invocation.form is Form.JSON:
        print_json(_plain(facts, checks))
    else:
        _print((a, b), facts, checks)
    _conclude(facts, checks)


def _ask(invocation: Invocation) -> pb.ClusterFacts:
    return invocation.ask_service(
        lambda channel: TrustFactsStub(channel).GetTrustFacts(pb.GetTrustFactsRequest(), timeout=CALL_SECONDS)
    )


def _conclude(facts: Sequence[ClusterFacts], checks: Sequence[Check]) -> None:
    """End with an error unless mutual TLS works."""
    if verdict(checks) is Verdict.FAILS:
        bad = [check for check in checks if check.grade is Grade.BAD]
        failing = sorted(
            {check.way.value.replace("believes", "does not believe") or "no root in common" for check in bad}
        )
        raise FailedPrecondition(
            Reason.SVID_UNTRUSTED,
            f"mutual TLS between these clusters fails: {counted(len(bad), 'finding', 'findings')}"
            f" ({', '.join(failing)})",
            fix=_fix(bad[0], facts) if len(bad) == 1 else "do what is said above for each finding that is bad",
        )
    if verdict(checks) is Verdict.UNTOLD:
        raise FailedPrecondition(
            Reason.BUNDLE_NOT_FOUND,
            "whether mutual TLS works cannot be told: a folder does not say whose bundles its cluster has",
            fix="name the admin sockets of the servers, or files of `citadel-cli trust export`",
        )


def _fix(check: Check, facts: Sequence[ClusterFacts]) -> str:
    """What to do, and on which server."""
    if not check.fix:
        return ""
    if check.at is Side.BOTH:
        return f"on both: {check.fix}"
    domain = facts[0 if check.at is Side.A else 1].trust_domain
    return f"on {check.at}: {check.fix}" if domain is None else f"on {domain} ({check.at}): {check.fix}"


def _print(paths: Sequence[Path], facts: Sequence[ClusterFacts], checks: Sequence[Check]) -> None:
    print_fields(
        (name, ", ".join(filter(None, (_domain(each), f"{each.source.value} {path}", _upstream(each)))))
        for name, path, each in zip("AB", paths, facts, strict=True)
    )
    for way in Way:
        rows = [check for check in checks if check.way is way]
        print_heading(way.value or "both")
        print_table(
            ("", "WHAT", "FOUND", "WHAT TO DO"),
            ((check.grade.value, check.subject.value, check.finding, _fix(check, facts)) for check in rows),
            none="nothing was looked at",
        )
    if verdict(checks) is Verdict.WORKS:
        print_heading("mutual TLS works in both directions")


def _domain(facts: ClusterFacts) -> str:
    return facts.trust_domain.name if facts.trust_domain is not None else "no named trust domain"


def _upstream(facts: ClusterFacts) -> str:
    return f"upstream {facts.upstream}" if facts.upstream else ""


def _plain(facts: Sequence[ClusterFacts], checks: Sequence[Check]) -> dict[str, object]:
    return {
        "clusters": [
            {"source": each.source.value, "trust_domain": each.trust_domain.name if each.trust_domain else None}
            for each in facts
        ],
        "works": verdict(checks) is Verdict.WORKS,
        "verdict": verdict(checks).value,
        "checks": [
            {
                "way": check.way.name.lower(),
                "subject": check.subject.name.lower(),
                "grade": check.grade.value,
                "finding": check.finding,
                "fix": check.fix,
                "at": check.at.value if check.fix else "",
            }
            for check in checks
        ],
    }
