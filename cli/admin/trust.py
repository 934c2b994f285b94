"""`citadel-cli trust`: why two clusters do or do not trust each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from citadel._wire import trust_pb2 as pb
from citadel._wire.trust_pb2_grpc import TrustFactsStub
from citadel.errors import FailedPrecondition, Reason
from cli.admin.invocation import CALL_SECONDS, Invocation, admin_command
from cli.admin.tables import print_fields, print_heading, print_table
from cli.output import Form, echo, print_json
from cli.trust.check import Check, Grade, Way, works
from cli.trust.facts import ClusterFacts
from cli.trust.gather import gather, to_file
from cli.trust.rules import compare

_CLUSTER = click.Path(path_type=Path)


@click.group("trust")
def trust_group() -> None:
    """Trust between clusters."""


@admin_command("export", group=trust_group, example="citadel-cli trust export --write east.json")
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


@admin_command("verify", group=trust_group, example="citadel-cli trust verify /run/citadel/admin.sock west.json")
@click.argument("a", type=_CLUSTER)
@click.argument("b", type=_CLUSTER)
def verify(invocation: Invocation, a: Path, b: Path) -> None:
    """Tell why the clusters A and B do or do not trust each other, and what to do.

    Each is a server's admin socket, a file of `trust export`, or a folder with ca-cert.pem and root-cert.pem. Ends with
    code 8 where mutual TLS fails in either direction.
    """

    def ask(socket: Path) -> pb.ClusterFacts:
        return _ask(replace(invocation, socket=socket))

    facts = [gather(path, ask=ask, now=invocation.clock.now) for path in (a, b)]
    checks = compare(*facts, now=invocation.clock.now())
    if invocation.form is Form.JSON:
        print_json(_plain(facts, checks))
    else:
        _print((a, b), facts, checks)
    if not works(checks):
        failing = sorted({check.way.value or "neither believes the other" for check in _bad(checks)})
        raise FailedPrecondition(
            Reason.SVID_UNTRUSTED,
            f"mutual TLS between these clusters fails: {len(_bad(checks))} findings ({', '.join(failing)})",
            fix=_bad(checks)[0].fix,
        )


def _ask(invocation: Invocation) -> pb.ClusterFacts:
    return invocation.ask_service(
        lambda channel: TrustFactsStub(channel).GetTrustFacts(pb.GetTrustFactsRequest(), timeout=CALL_SECONDS)
    )


def _bad(checks: Sequence[Check]) -> list[Check]:
    return [check for check in checks if check.grade is Grade.BAD]


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
            ((check.grade.value, check.subject.value, check.finding, check.fix) for check in rows),
            none="nothing was looked at",
        )


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
        "works": works(list(checks)),
        "checks": [
            {
                "way": check.way.name.lower(),
                "subject": check.subject.name.lower(),
                "grade": check.grade.value,
                "finding": check.finding,
                "fix": check.fix,
            }
            for check in checks
        ],
    }
