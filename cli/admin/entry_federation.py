"""Telling of entries that federate with a trust domain of which no bundle is known: allowed, and easily forgotten."""

from __future__ import annotations

from collections.abc import Iterable

import click

from citadel._wire import federation_pb2, types_pb2
from citadel._wire.federation_pb2_grpc import BundlesStub
from cli.admin.invocation import CALL_SECONDS, Invocation


def without_bundle(invocation: Invocation, entries: Iterable[types_pb2.Entry]) -> list[str]:
    """The foreign trust domains that these entries federate with and of which the server knows no bundle."""
    named = {name for entry in entries for name in entry.federates_with}
    if not named:
        return []
    request = federation_pb2.ListBundlesRequest()
    found = invocation.ask_service(lambda channel: BundlesStub(channel).ListBundles(request, timeout=CALL_SECONDS))
    return sorted(named - {each.bundle.trust_domain for each in found.bundles})


def warn_of(names: Iterable[str]) -> None:
    """Say it beside the answer, which programs read."""
    for name in names:
        click.echo(
            f"no bundle of {name} is known yet, so nobody of {name} is trusted: "
            f"`citadel-cli federation create {name} …` or `citadel-cli bundle set {name} FILE` brings one",
            err=True,
        )
