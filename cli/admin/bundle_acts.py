"""`citadel-cli bundle list`, `set` and `delete`: bundles that people exchange by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from citadel._wire import federation_pb2 as pb
from citadel._wire import types_pb2
from citadel._wire.admin_pb2 import GetOwnBundleRequest
from citadel._wire.admin_pb2_grpc import AdminStub
from citadel._wire.federation_pb2_grpc import BundlesStub
from citadel.spiffe import TrustDomain
from citadel.wire import from_timestamp
from cli.admin.bundle_file import read_bundle
from cli.admin.invocation import CALL_SECONDS, Invocation, admin_command
from cli.admin.parameters import TextType, TrustDomainType
from cli.admin.plain import to_plain
from cli.admin.tables import counted, moment_cell, print_table
from cli.output import Form, echo, print_json

if TYPE_CHECKING:
    from citadel._wire.admin_pb2_grpc import AdminAsyncStub  # exist for type checkers only
    from citadel._wire.federation_pb2_grpc import BundlesAsyncStub

_EXCHANGED: Final = (
    "Workloads trust the roots of another cluster of this trust domain now: it can speak for every identity here.\n"
    "While they do, no revocation lists are pushed to proxies, since those of that cluster are not known here:\n"
    "what is revoked is taken until its certificate ends, unless a listener asks the agent. `status` says so.\n"
    "Agents, administrators and this server's own listeners trust the own roots alone, as before.\n"
    "For the other cluster: `citadel-cli bundle show --own --format spiffe`"
)
_REASON = click.option("--reason", type=TextType(), required=True, help="Why, for the audit log.")
_OWN_DOMAIN = click.option(
    "--own-domain", is_flag=True, help="Of another cluster of the own trust domain with another root."
)


@admin_command("list", example="citadel-cli bundle list")
def list_(invocation: Invocation) -> None:
    """List the bundles that are known: the own one, and those of foreign trust domains."""
    request = pb.ListBundlesRequest()
    found = invocation.ask_service(lambda channel: BundlesStub(channel).ListBundles(request, timeout=CALL_SECONDS))
    if invocation.form is Form.JSON:
        print_json({"bundles": [_plain(each) for each in found.bundles]})
        return
    now = invocation.clock.now()
    print_table(
        ("TRUST DOMAIN", "FROM", "X.509", "JWT", "SEQUENCE", "CHANGED", "ENTRIES"),
        (
            (
                each.bundle.trust_domain,
                _source(each),
                each.x509_authorities or "none: nothing is trusted",
                each.jwt_authorities,
                each.sequence or "",
                moment_cell(from_timestamp(each.updated_at) if each.HasField("updated_at") else None, now),
                each.entries if each.source != "own" else "",
            )
            for each in found.bundles
        ),
        none="none",
    )


@admin_command(
    "set", example="citadel-cli bundle set b.example bundle.json --reason 'from their operator, compared by phone'"
)
@click.argument("words", nargs=-1, required=True, metavar="[NAME] FILE")
@_OWN_DOMAIN
@_REASON
def set_(invocation: Invocation, words: tuple[str, ...], reason: str, *, own_domain: bool) -> None:
    """Trust a bundle that was brought by hand: FILE is SPIFFE's JSON or PEM, NAME its trust domain.

    Entries that federate with NAME trust it from now on, and nobody else. With --own-domain the roots in FILE are
    those of another cluster of the own trust domain, and every workload trusts them beside the own ones.
    """
    name, path = _name_and_file(words, own_domain=own_domain)
    known = invocation.ask_service(lambda channel: _set(BundlesStub(channel), AdminStub(channel), name, path, reason))
    if invocation.form is Form.JSON:
        print_json(_plain(known))
    elif own_domain:
        echo(f"exchanged: {known.x509_authorities} X.509 authorities\n{_EXCHANGED}")
    else:
        echo(_said_of(known))


@admin_command("delete", example="citadel-cli bundle delete b.example --mode dissociate --reason 'the contract ended'")
@click.argument("name", type=TrustDomainType(), required=False)
@_OWN_DOMAIN
@click.option(
    "--mode",
    type=click.Choice(["restrict", "dissociate"]),
    default="restrict",
    show_default=True,
    help="Whether it is refused while entries federate with NAME, or these federate with it no longer.",
)
@_REASON
def delete(invocation: Invocation, name: TrustDomain | None, mode: str, reason: str, *, own_domain: bool) -> None:
    """Take a bundle back that was set by hand: NAME is trusted no longer, within a second."""
    if (name is None) != own_domain:
        raise click.UsageError("say either NAME or --own-domain")
    request = pb.DeleteBundleRequest(
        trust_domain=name.name if name is not None else "", why=reason, mode=mode, own_domain=own_domain
    )
    gone = invocation.ask_service(lambda channel: BundlesStub(channel).DeleteBundle(request, timeout=CALL_SECONDS))
    if invocation.form is Form.JSON:
        print_json(_plain(gone))
    elif own_domain:
        echo(
            f"given up: {gone.x509_authorities} X.509 authorities of another cluster\n"
            "Workloads here refuse those of the other cluster from now on. Revocation lists are pushed again,\n"
            "unless `citadel-cli status` has another reason why not."
        )
    else:
        dissociated = f"; {_federating(gone.entries)} with it no longer" if gone.entries else ""
        echo(f"deleted: {gone.bundle.trust_domain} is trusted no longer{dissociated}")


async def _set(
    bundles: BundlesAsyncStub, admin: AdminAsyncStub, name: TrustDomain | None, file: Path, reason: str
) -> pb.KnownBundle:
    domain = name
    if domain is None:
        own = await admin.GetOwnBundle(GetOwnBundleRequest(), timeout=CALL_SECONDS)
        domain = TrustDomain.parse(own.trust_domain)
    bundle = read_bundle(file, domain)
    request = pb.SetBundleRequest(
        bundle=types_pb2.Bundle(trust_domain=domain.name, json=bundle.to_json()), why=reason, own_domain=name is None
    )
    return await bundles.SetBundle(request, timeout=CALL_SECONDS)


def _name_and_file(words: Sequence[str], *, own_domain: bool) -> tuple[TrustDomain | None, Path]:
    if own_domain and len(words) == 1:
        return None, Path(words[0])
    if not own_domain and len(words) == 2:
        return TrustDomain.parse(words[0]), Path(words[1])
    raise click.UsageError("say NAME and FILE, or --own-domain and FILE")


def _said_of(known: pb.KnownBundle) -> str:
    name = known.bundle.trust_domain
    if not known.x509_authorities:
        return f"set: the bundle of {name} has no X.509 authority, so nobody of {name} is trusted"
    trusting = (
        f"{_federating(known.entries)} with it"
        if known.entries
        else f"no entry federates with it yet: `citadel-cli entry update ID --federates-with {name}`"
    )
    return f"set: {known.x509_authorities} X.509 and {known.jwt_authorities} JWT authorities of {name}; {trusting}"


def _federating(entries: int) -> str:
    return f"{counted(entries, 'entry', 'entries')} {'federates' if entries == 1 else 'federate'}"


def _source(known: pb.KnownBundle) -> str:
    return f"own, and {known.exchanged_authorities} exchanged" if known.exchanged_authorities else known.source


def _plain(known: pb.KnownBundle) -> object:
    """Without the document, which `bundle show --format spiffe` prints."""
    told = pb.KnownBundle()
    told.CopyFrom(known)
    told.ClearField("bundle")
    plain = to_plain(told)
    return {
        "trust_domain": known.bundle.trust_domain,
        **{key: value for key, value in plain.items() if key != "bundle"},
    }
