"""`citadel-cli revoke` and `citadel-cli revocation`: take certificates back, and let identities be issued again."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

import click

from citadel._wire import agents_pb2
from citadel._wire import revocation_pb2 as pb
from citadel._wire.agents_pb2_grpc import AgentAdminStub
from citadel._wire.revocation_pb2_grpc import RevocationsStub
from citadel.errors import Kind, NotFound
from citadel.spiffe import SCHEME
from citadel.wire import from_timestamp
from cli.admin.invocation import CALL_SECONDS, Invocation, admin_command
from cli.admin.parameters import TextType
from cli.admin.plain import to_plain
from cli.admin.tables import (
    moment_and_distance,
    moment_cell,
    print_fields,
    print_heading,
    print_table,
    serial_cell,
)
from cli.output import EXIT_CODES, Form, echo, print_json, printable

if TYPE_CHECKING:
    from citadel._wire.revocation_pb2_grpc import RevocationsAsyncStub  # exists for type checkers only

T = TypeVar("T")

# Of RFC 5280, section 5.3.1, those that are for leaves which are revoked for good.
_CODES: Final = (
    "unspecified",
    "keyCompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "privilegeWithdrawn",
)
_SERIAL: Final = re.compile(r"(?:[0-9a-f]{2}){1,20}", re.IGNORECASE)
_LIVE_CONNECTIONS: Final = (
    "Connections that are open go on until they end: Envoy checks a certificate when a connection is made.",
    "Listeners that ask the agent refuse the next request instead, and end it: deploy/envoy/authorizing.yaml.",
    "max_connection_duration in the configuration of Envoy bounds them; restarting a proxy ends its own now.",
)


@admin_command("revoke", example="citadel-cli revoke spiffe://example.org/web --reason 'its key was copied'")
@click.argument("target", metavar="SERIAL|SPIFFE-ID|AGENT", type=TextType())
@click.option("--reason", type=TextType(), required=True, help="Why, for the audit log.")
@click.option("--code", type=click.Choice(_CODES), default=_CODES[0], show_default=True, help="Why, in RFC 5280.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def revoke_command(invocation: Invocation, target: str, reason: str, code: str, *, yes: bool) -> None:
    """Take back a certificate, all those of an identity, or an agent with all that were issued through it.

    Proxies refuse them at their next handshake, and what was revoked is not renewed. A certificate that was replaced
    already bars nothing: `citadel-cli rotate svid` first, then revoke the old serial.
    """
    if not (yes or _is_certificate(invocation, target)):
        click.confirm(_question(target), abort=True, err=True)
    request = pb.RevokeRequest(target=target, reason=reason, code=code)
    answer = _ask(invocation, lambda server: server.Revoke(request, timeout=CALL_SECONDS))
    if invocation.form is Form.JSON:
        print_json(to_plain(answer))
    else:
        _print_answer(invocation, answer)
    _warn(answer)
    if not answer.is_published:
        click.get_current_context().exit(EXIT_CODES[Kind.FAILED_PRECONDITION])


@click.group("revocation")
def revocation_group() -> None:
    """What was revoked, and how to let it be issued again."""


@admin_command("list", group=revocation_group, example="citadel-cli revocation list")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many, at most.")
def list_command(invocation: Invocation, limit: int) -> None:
    """List what was revoked, the newest first, with what gets no new certificate because of it."""
    request = pb.ListRevocationsRequest(limit=limit)
    listed = _ask(invocation, lambda server: server.ListRevocations(request, timeout=CALL_SECONDS))
    if invocation.form is Form.JSON:
        print_json({"revocations": [to_plain(each) for each in listed.revocations]})
        return
    now = invocation.clock.now()
    print_table(
        ("ID", "KIND", "TARGET", "CERTIFICATES", "REVOKED", "BY", "CODE", "REASON", "BARS"),
        (
            (
                each.id,
                _kind(each),
                serial_cell(each.target) if each.kind == pb.Revocation.CERTIFICATE else each.target,
                each.certificates,
                moment_cell(from_timestamp(each.revoked_at), now),
                each.revoked_by,
                each.code,
                each.reason,
                each.bars or "nothing",
            )
            for each in listed.revocations
        ),
        none="nothing was revoked",
    )


@admin_command(
    "lift", group=revocation_group, example="citadel-cli revocation lift spiffe://example.org/web --reason ok"
)
@click.argument("name", metavar="ID|TARGET", type=TextType())
@click.option("--reason", type=TextType(), required=True, help="Why, for the audit log.")
def lift(invocation: Invocation, name: str, reason: str) -> None:
    """Let what a revocation bars be issued again. The certificates that were revoked stay so."""
    request = pb.LiftRevocationRequest(id=name, reason=reason)
    lifted = _ask(invocation, lambda server: server.LiftRevocation(request, timeout=CALL_SECONDS))
    if invocation.form is Form.JSON:
        print_json(to_plain(lifted))
    else:
        stays = f"what it revoked stays so ({_certificates(lifted)})"
        echo(printable(f"lifted the revocation {lifted.id} of {lifted.target}; {stays}"))


def _ask(invocation: Invocation, question: Callable[[RevocationsAsyncStub], Awaitable[T]]) -> T:
    return invocation.ask_service(lambda channel: question(RevocationsStub(channel)))


def _is_certificate(invocation: Invocation, target: str) -> bool:
    """Whether it is a serial. Machines have names in hex too: only the server knows those."""
    if not _SERIAL.fullmatch(target.replace(":", "")):
        return False
    if ":" in target:
        return True
    request = agents_pb2.GetAgentRequest(agent=target)
    try:
        invocation.ask_service(lambda channel: AgentAdminStub(channel).GetAgent(request, timeout=CALL_SECONDS))
    except NotFound:
        return True
    return False


def _question(target: str) -> str:
    if target.startswith(SCHEME) and "/citadel/agent/" not in target:
        return (
            f"Revoke every certificate of {printable(target)}? Its workloads can connect to nobody until you lift it."
        )
    return (
        f"Revoke agent {printable(target)}, and every certificate that was issued through it? It is banned, and its "
        "workloads can connect to nobody until you lift it."
    )


def _print_answer(invocation: Invocation, answer: pb.RevokeResponse) -> None:
    revocation, now = answer.revocation, invocation.clock.now()
    already = moment_and_distance(from_timestamp(revocation.revoked_at), now) + f" by {revocation.revoked_by}"
    print_fields(
        (
            ("revoked", f"{_kind(revocation)} {revocation.target}"),
            ("certificates", revocation.certificates),
            *((("was revoked already", f"{already}: {revocation.reason}"),) if answer.was_revoked else ()),
            ("revocation", revocation.id),
            ("in force on", _force(answer)),
            *(
                (("agents away", f"{answer.agents_away}: they hear of it when they are back"),)
                if answer.agents_away
                else ()
            ),
            ("gets no new one", revocation.bars or "nothing"),
        )
    )
    if answer.not_in_force:
        print_heading("not in force on")
        print_table(("PROXY",), ((each,) for each in answer.not_in_force), none="none")
        more = answer.proxies - answer.proxies_in_force - len(answer.not_in_force)
        if more > 0:
            echo(f"and {more} more")
    echo("")
    for line in _LIVE_CONNECTIONS:
        echo(line)


def _force(answer: pb.RevokeResponse) -> str:
    if not answer.is_published:
        return "no proxy: no list that is pushed says it"
    return f"{answer.proxies_in_force} of {answer.proxies} proxies" if answer.proxies else "no proxy is connected"


def _warn(answer: pb.RevokeResponse) -> None:
    late = answer.proxies - answer.proxies_in_force
    if not answer.is_published:
        click.echo(f"not in force: {printable(answer.trouble)}", err=True)
    elif late:
        text = (
            f"warning: on {late} of {answer.proxies} proxies it is not in force; it is as soon as they take the lists"
        )
        click.echo(text, err=True)


def _kind(revocation: pb.Revocation) -> str:
    return pb.Revocation.Kind.Name(revocation.kind).lower()


def _certificates(revocation: pb.Revocation) -> str:
    number = revocation.certificates
    return f"{number} certificate" if number == 1 else f"{number} certificates"
