"""The policy document as people write it. `deploy/authz.yaml` shows each field with its meaning.

The fields under `authorization` and their names are those of Istio's AuthorizationPolicy. Decision 0033 says where
their meaning differs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Final, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, model_validator

from citadel.access import spelling
from citadel.access.patterns import ANY, Pattern, PrincipalPattern, TextPattern
from citadel.access.rules import Action
from citadel.access.when import Key
from citadel.claims import DEFAULT_LEEWAY
from citadel.config.types import Duration, Settings
from citadel.errors import InvalidArgument
from citadel.jwt.settings import JwtRule
from citadel.selector import Selector
from citadel.workload_selectors import check_workload_selector, check_workload_selectors

T = TypeVar("T")

_LONGEST_LEEWAY: Final = timedelta(minutes=5)
# Of Istio's fields that decision 0033 leaves out.
_BY_PRINCIPALS: Final = "Citadel does not have this field of Istio's; name whole SPIFFE IDs under {}"
_NO_ADDRESSES: Final = "Citadel does not have this field of Istio's; it knows peers by SPIFFE IDs alone: principals"
_NO_PORTS: Final = "Citadel does not have this field of Istio's; a policy holds at every port of its proxies"
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")


def _some(value: Any) -> Any:
    if value == []:
        raise ValueError("an empty list is never met: leave it out, or name something")
    return value


def _at_least_one(value: Any) -> Any:
    if value == []:
        raise ValueError("an empty list is never met: name something")
    return value


def _parsed(parse: Callable[[str], T]) -> PlainValidator:
    def validate(value: object) -> T:
        if not isinstance(value, str):
            raise ValueError("is not text")  # noqa: TRY004 - pydantic passes a TypeError on
        return parse(value)

    return PlainValidator(validate)


def _selector(written: str) -> Selector:
    try:
        selector = Selector.parse(written)
        if selector.type == "node":
            raise ValueError("is of nodes, and no caller has it: write one of the caller, such as unix:uid:1000")
        check_workload_selector(selector)
    except InvalidArgument as error:
        raise ValueError(str(error)) from error
    return selector


def _selectors(written: tuple[Selector, ...]) -> tuple[Selector, ...]:
    try:
        check_workload_selectors(dict.fromkeys(written))  # the same one twice asks for no more than once
    except InvalidArgument as error:
        raise ValueError(str(error)) from error
    return written


def _name(written: str) -> str:
    if _NAME.fullmatch(written) is None:
        raise ValueError("a name has letters, digits, '.', '-' and '_' only, at most 100 of them")
    return written


def _leeway(value: timedelta) -> timedelta:
    if value > _LONGEST_LEEWAY:
        raise ValueError("must be 5m or less: a token lives longer by it")
    return value


Name = Annotated[str, AfterValidator(_name)]
Some = BeforeValidator(_some)
AtLeastOne = BeforeValidator(_at_least_one)  # of fields that cannot be left out
Text = Annotated[TextPattern, _parsed(spelling.text)]
Principals = Annotated[tuple[Annotated[Pattern, _parsed(spelling.principal)], ...], Some]
TrustDomains = Annotated[tuple[Annotated[Pattern, _parsed(spelling.trust_domain)], ...], Some]
Hosts = Annotated[tuple[Annotated[Pattern, _parsed(spelling.host)], ...], Some]
Methods = Annotated[tuple[Annotated[Pattern, _parsed(spelling.method)], ...], Some]
Paths = Annotated[tuple[Annotated[Pattern, _parsed(spelling.path)], ...], Some]
Texts = Annotated[tuple[str, ...], Some]
Selectors = Annotated[tuple[Annotated[Selector, _parsed(_selector)], ...], AtLeastOne, AfterValidator(_selectors)]


class PrincipalSettings(Settings):
    """An end user, by issuer and subject; the text `*` is any of any issuer."""

    takes_text: ClassVar[bool] = True

    issuer: Text
    subject: Text

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if value == ANY:
            return {"issuer": ANY, "subject": ANY}
        if isinstance(value, str):
            raise ValueError(  # noqa: TRY004 - pydantic passes a TypeError on
                "both parts may hold a /, so that one text has several meanings: write {issuer: ..., subject: ...}"
                if "/" in value
                else f"a subject is that of an issuer: write {{issuer: ..., subject: {value[:100]}}}"
            )
        return value

    @property
    def pattern(self) -> PrincipalPattern:
        """As rules have it."""
        return PrincipalPattern(self.issuer, self.subject)


RequestPrincipals = Annotated[tuple[PrincipalSettings, ...], Some]


class _SomeField(Settings):
    """A section that must say something."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("it names nothing, which everything matches: leave it out, or name something")
        return self


class SourceSettings(_SomeField):
    """Who sends a request: all of the fields must be met, each by any of its list."""

    not_here: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("namespaces", "serviceAccounts"), _BY_PRINCIPALS.format("principals")),
        **dict.fromkeys(("notNamespaces", "notServiceAccounts"), _BY_PRINCIPALS.format("notPrincipals")),
        **dict.fromkeys(("ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks"), _NO_ADDRESSES),
    }

    principals: Principals = ()
    notPrincipals: Principals = ()
    trustDomains: TrustDomains = ()
    notTrustDomains: TrustDomains = ()
    requestPrincipals: RequestPrincipals = ()
    notRequestPrincipals: RequestPrincipals = ()


class OperationSettings(_SomeField):
    """What is asked for: all of the fields must be met, each by any of its list."""

    not_here: ClassVar[Mapping[str, str]] = dict.fromkeys(("ports", "notPorts"), _NO_PORTS)

    hosts: Hosts = ()
    notHosts: Hosts = ()
    methods: Methods = ()
    notMethods: Methods = ()
    paths: Paths = ()
    notPaths: Paths = ()


class FromSettings(Settings):
    """One entry of `from`."""

    source: SourceSettings


class ToSettings(Settings):
    """One entry of `to`."""

    operation: OperationSettings


class WhenSettings(Settings):
    """A condition on one attribute of the request."""

    key: Annotated[Key, _parsed(Key.parse)]
    values: Texts = ()
    notValues: Texts = ()

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if not self.values and not self.notValues:
            raise ValueError("it has neither values nor notValues")
        for written in (*self.values, *self.notValues):
            try:
                self.key.pattern(written)
            except ValueError as error:
                raise ValueError(f"{written[:100]!r}: {error}") from error
        return self


class RuleSettings(Settings):
    """`from`, `to` and `when` must all be met; of several entries of `from` or `to`, one."""

    from_: Annotated[tuple[FromSettings, ...], Some] = Field(default=(), alias="from")
    to: Annotated[tuple[ToSettings, ...], Some] = ()
    when: Annotated[tuple[WhenSettings, ...], Some] = ()


class AuthorizationSettings(Settings):
    """Rules of one action."""

    name: Name | None = None
    action: Action
    rules: Annotated[tuple[RuleSettings, ...], AtLeastOne]


class PolicySettings(Settings):
    """What holds at the proxies that have all of `selectors`."""

    name: Name
    selectors: Selectors
    jwtRules: Annotated[tuple[JwtRule, ...], Some] = ()
    default: Action | None = None
    authorization: Annotated[tuple[AuthorizationSettings, ...], Some] = ()


class PolicyFile(Settings):
    """The whole document."""

    leeway: Annotated[Duration, AfterValidator(_leeway)] = DEFAULT_LEEWAY
    policies: Annotated[tuple[PolicySettings, ...], AtLeastOne]
