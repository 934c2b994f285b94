"""Whether one condition of a rule holds for a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from citadel.access.normal import plain_host, plain_method, plain_paths
from citadel.access.patterns import Value
from citadel.access.rules import PROVEN, Action, Condition, Subject
from citadel.jwt.user import EndUser
from citadel.request import HttpRequest
from citadel.spiffe import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What rules are asked about, in plain form."""

    method: str
    host: str
    paths: tuple[str, ...]
    headers: Mapping[str, str]
    peer: SpiffeId | None
    user: EndUser | None

    @classmethod
    def of(cls, request: HttpRequest, user: EndUser | None) -> Self:
        """Raises `ValueError` for a request that has no plain form."""
        return cls(
            method=plain_method(request.method),
            host=plain_host(request.host),
            paths=plain_paths(request.path),
            headers=request.headers,
            peer=request.peer,
            user=user,
        )

    @property
    def path(self) -> str:
        """The plain one, without parameters."""
        return self.paths[0]


_MUST_BE_THERE: Final = PROVEN | {Subject.HOST}


def holds(condition: Condition, facts: Facts, action: Action) -> bool:
    """Whether the condition is met.

    What is not there matches no pattern. So it would pass every negated list: right where somebody is refused who could
    not show to be of those spared, wrong where somebody is let in without having shown who they are. Therefore in ALLOW
    rules a negated list about what somebody proved (peer, token) is met only by somebody who proved something, and one
    about hosts only where there is one, since no program says which one it takes instead.

    Of a path with parameters programs read either form: each must be allowed, and none denied.
    """
    values = values_of(condition, facts)
    if condition.subject is Subject.PATH and len(values) > 1:
        met = (_any_match(condition, (each,)) is not condition.negated for each in values)
        return all(met) if action is Action.ALLOW else any(met)
    if not condition.negated:
        return _any_match(condition, values)
    if not values and action is Action.ALLOW and condition.subject in _MUST_BE_THERE:
        return False
    return not _any_match(condition, values)


def values_of(condition: Condition, facts: Facts) -> Sequence[Value]:
    """What the request says of the condition's subject; nothing that is empty."""
    return _READERS[condition.subject](condition, facts)


def _of_user(read: Callable[[Condition, EndUser], Sequence[Value]]) -> _Reader:
    return lambda condition, facts: read(condition, facts.user) if facts.user is not None else ()


_Reader = Callable[[Condition, Facts], Sequence[Value]]
_READERS: Final[dict[Subject, _Reader]] = {
    Subject.PEER: lambda _, facts: (str(facts.peer),) if facts.peer is not None else (),
    Subject.TRUST_DOMAIN: lambda _, facts: (facts.peer.trust_domain.name,) if facts.peer is not None else (),
    Subject.HEADER: lambda condition, facts: _present(facts.headers.get(condition.names[0])),
    Subject.HOST: lambda _, facts: _present(facts.host),
    Subject.METHOD: lambda _, facts: (facts.method,),
    Subject.PATH: lambda _, facts: facts.paths,
    Subject.PRINCIPAL: _of_user(lambda _, user: (user.principal,) if user.principal is not None else ()),
    Subject.AUDIENCES: _of_user(lambda _, user: tuple(filter(None, user.audiences))),
    Subject.PRESENTER: _of_user(lambda _, user: _present(user.presenter)),
    Subject.CLAIM: _of_user(lambda condition, user: _texts(_claim(user.claims, condition.names))),
}


def _claim(claims: Mapping[str, Any], names: Sequence[str]) -> Any:
    value: Any = claims
    for name in names:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _texts(value: Any) -> Sequence[str]:
    """A claim, or each of a list; whole numbers and truth values as JSON writes them. Nothing else has one form."""
    match value:
        case list() | tuple():
            return tuple(text for item in value if not isinstance(item, list | tuple) for text in _texts(item))
        case bool():
            return ("true" if value else "false",)
        case int():
            return (str(value),)
        case str():
            return _present(value)
        case _:
            return ()


def _present(text: str | None) -> tuple[str, ...]:
    return (text,) if text else ()


def _any_match(condition: Condition, values: Sequence[Value]) -> bool:
    for value in values:
        for pattern in condition.patterns:  # a generator for each request would cost more than all of this
            if pattern.matches(value):
                return True
    return False
