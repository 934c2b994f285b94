"""`citadel-cli authz`: whether a policy document can be used, and what it decides, without an agent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

import click

from citadel.access.decision import Decision, explain
from citadel.access.loading import check_policies, load_policies
from citadel.access.rules import Policies, Policy
from citadel.errors import CitadelError, InvalidArgument, NotFound, PermissionDenied, Reason, Unauthenticated
from citadel.jwt.forwarding import changes
from citadel.jwt.jwks import MAX_DOCUMENT_BYTES, KeySet
from citadel.jwt.validator import EndUserValidator, KeyRing
from citadel.request import HttpRequest
from citadel.selector import Selector
from citadel.spiffe import SpiffeId
from cli.admin.invocation import Invocation, admin_command
from cli.admin.parameters import SelectorType, SpiffeIdType, TextType
from cli.authz.tokens import GivenKeys, issuers_keys, read_token, vouched_for, with_token
from cli.authz.view import Explained, in_words, plain, show
from cli.output import Form, echo, print_json

_FILE: Final = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group("authz")
def authz_group() -> None:
    """Policies of who may ask for what at a proxy: `authz.policy_file` of an agent."""


@admin_command("lint", group=authz_group, example="citadel-cli authz lint /etc/citadel/authz.yaml")
@_FILE
@click.option("--strict", is_flag=True, help="Warnings are errors.")
def lint_command(invocation: Invocation, file: Path, *, strict: bool) -> None:
    """Check the policies in FILE as an agent does, and warn of what is often not meant. Each with its line.

    Ends with exit code 3 where an agent would refuse the file.
    """
    try:
        checked = check_policies(file)
    except CitadelError as error:
        if invocation.form is Form.JSON:
            print_json({"valid": False, "errors": error.message.splitlines(), "warnings": []})
        raise
    if invocation.form is Form.JSON:
        print_json({"valid": True, "errors": [], "warnings": list(checked.doubts)})
    else:
        for doubt in checked.doubts:
            echo(f"warning: {doubt}")
        echo(f"{file}: valid; policies: {len(checked.policies.policies)}, warnings: {len(checked.doubts)}")
    if strict and checked.doubts:
        raise InvalidArgument(Reason.CONFIG_INVALID, f"{file}: there are warnings, and --strict takes none")


@admin_command(
    "explain",
    group=authz_group,
    example="citadel-cli authz explain authz.yaml --policy productpage --peer spiffe://example.org/web"
    " --path /reviews/1 --token jason.jwt",
)
@_FILE
@click.option("--policy", "name", type=TextType(), help="The policy, by its name.")
@click.option(
    "--selector",
    "selectors",
    type=SelectorType(),
    multiple=True,
    metavar="TYPE:VALUE",
    help="Choose the policy by what an agent sees of the proxy; name all of it. Repeatable.",
)
@click.option("--peer", type=SpiffeIdType(), help="Who sends the request, by its certificate.")
@click.option("--method", type=TextType(), default="GET", show_default=True, help="In capitals.")
@click.option("--host", default="", help="The Host header.")
@click.option("--path", default="/", show_default=True, help="With its query, as it is sent.")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header of the request. Repeatable.")
@click.option("--token", type=click.File("rb"), help="A file with the end user's token; - is standard input.")
@click.option("--jwks", type=click.File("rb"), help="The issuers' keys, which are otherwise fetched.")
@click.option("--unverified", is_flag=True, help="Take whoever signed the token for its issuer. Nothing is fetched.")
def explain_command(  # noqa: PLR0913 - one parameter for each option
    invocation: Invocation,
    file: Path,
    *,
    name: str | None,
    selectors: tuple[Selector, ...],
    peer: SpiffeId | None,
    method: str,
    host: str,
    path: str,
    headers: tuple[str, ...],
    token: BinaryIO | None,
    jwks: BinaryIO | None,
    unverified: bool,
) -> None:
    """Say which rule of FILE decides a request, why no other one does, and what the proxy changes in the request.

    The token is checked as by an agent, with keys that are fetched from its issuer. Ends with exit code 0 where the
    request is allowed and 6 where it is refused.
    """
    if (name is None) == (not selectors):
        raise click.UsageError("say which policy: either --policy, or --selector")
    if unverified and (jwks is not None or token is None):
        raise click.UsageError("--unverified goes with --token, and not with --jwks")
    policies = load_policies(file)
    policy = _policy(policies, name, selectors)
    request = HttpRequest(method=method, host=host, path=path, headers=_headers(headers), peer=peer)
    keys: KeyRing = GivenKeys(_read_keys(jwks)) if jwks is not None else issuers_keys()
    if token is not None:
        text = read_token(token)
        if unverified:
            text, keys = vouched_for(text)
        request = with_token(request, text, policy)
    validator = EndUserValidator(policy.jwt_rules, keys=keys, clock=invocation.clock, leeway=policies.leeway)
    verified = asyncio.run(validator.check(request))
    explanation = explain(policy, request, verified.user if verified is not None else None)
    decision = explanation.decision
    found = Explained(
        policy=policy,
        request=request,
        explanation=explanation,
        token=verified,
        token_verified=not unverified,
        perhaps=policies.perhaps_before(policy, frozenset(selectors)) if selectors else {},
        changes=changes(policy.jwt_rules, request, verified) if decision.allowed else None,
    )
    if invocation.form is Form.JSON:
        print_json(plain(found))
    else:
        show(found)
    _end(decision)


def _policy(policies: Policies, name: str | None, selectors: Sequence[Selector]) -> Policy:
    names = ", ".join(policy.name for policy in policies.policies)
    if name is not None:
        if (policy := policies.named(name)) is None:
            raise NotFound(Reason.NO_POLICY, f"no policy has the name {name!r}", fix=f"there are {names}")
        return policy
    if (policy := policies.of(frozenset(selectors))) is None:
        seen = " ".join(map(str, selectors))
        perhaps = "".join(f"; {each}" for each in in_words(policies.perhaps_before(None, frozenset(selectors))))
        raise PermissionDenied(
            Reason.NO_POLICY, f"a proxy with {seen} has all selectors of no policy", fix=f"there are {names}{perhaps}"
        )
    return policy


def _headers(written: Sequence[str]) -> dict[str, str]:
    """Names in lowercase; one that comes twice has both values, as a proxy says it."""
    headers: dict[str, str] = {}
    for each in written:
        name, equals, value = each.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{each!r} is not NAME=VALUE", param_hint="--header")
        lower = name.strip().lower()
        headers[lower] = f"{headers[lower]},{value}" if lower in headers else value
    return headers


def _read_keys(file: BinaryIO) -> KeySet:
    return KeySet.parse(file.read(MAX_DOCUMENT_BYTES + 1))


def _end(decision: Decision) -> None:
    if decision.reason is Reason.SIGN_IN_REQUIRED:
        raise Unauthenticated(decision.reason, decision.words, fix="give a token of an end user with --token")
    if decision.reason is not None:
        raise PermissionDenied(decision.reason, f"refused by {decision.rule}: {decision.words}")
