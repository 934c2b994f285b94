"""The template that SPIFFE IDs of pods are made by, checked when the settings are read. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from citadel.errors import InvalidArgument, Reason
from citadel.reserved import RESERVED_SEGMENT, is_reserved_id
from citadel.spiffe import SCHEME, SpiffeId, TrustDomain

_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_OF_PODS: Final = ("namespace", "service_account", "pod")
_ALL: Final = ("trust_domain", "cluster", *_OF_PODS)
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]+")


def check_template(text: str) -> None:
    """What can be said of a template without the trust domain. Raises `ValueError`."""
    for name in _PLACEHOLDER.findall(text):
        if name not in _ALL:
            known = ", ".join(f"{{{each}}}" for each in _ALL)
            raise ValueError(f"there is no {{{name[:100]}}}; there are {known}")
    if "{" in (rest := _PLACEHOLDER.sub("", text)) or "}" in rest:
        raise ValueError("a brace has no other one that it belongs to")
    for segment in text.removeprefix(SCHEME).split("/"):
        if sum(name in _OF_PODS for name in _PLACEHOLDER.findall(segment)) > 1:
            # Pod "c" of "a-b" must never have the identity of pod "b-c" of "a".
            raise ValueError(f"{segment[:200]!r} puts two names into one path segment, where nothing keeps them apart")


@dataclass(frozen=True, slots=True, kw_only=True)
class IdTemplate:
    """A template for one cluster: what is left to be filled in is of the pod."""

    trust_domain: TrustDomain
    text: str

    @classmethod
    def parse(cls, text: str, *, trust_domain: TrustDomain, cluster: str) -> Self:
        """Raises `ValueError` for one that gives no SPIFFE ID of this trust domain, or can give a reserved one."""
        check_template(text)
        filled = text.replace("{trust_domain}", trust_domain.name).replace("{cluster}", cluster)
        try:
            sample = SpiffeId.parse(_PLACEHOLDER.sub("a", filled))
        except InvalidArgument as problem:
            raise ValueError(f"gives no SPIFFE ID: {problem.message}") from problem
        if not sample.is_member_of(trust_domain) or not filled.startswith(f"{trust_domain.id}/"):
            raise ValueError(f"gives IDs outside of the server's trust domain {trust_domain}")
        first = filled.removeprefix(f"{trust_domain.id}/").split("/")[0]
        pattern = ".+".join(re.escape(literal) for literal in _PLACEHOLDER.split(first)[::2])
        if re.fullmatch(pattern, RESERVED_SEGMENT):
            raise ValueError(
                f"can give IDs under /{RESERVED_SEGMENT}, which are reserved for Citadel itself; begin the path with"
                " something fixed, such as /ns/{namespace}"
            )
        return cls(trust_domain=trust_domain, text=filled)

    def fill(self, *, namespace: str, service_account: str, pod: str) -> SpiffeId:
        """The ID of a pod. Raises `InvalidArgument` where its names make none, or a reserved one."""
        names = {"namespace": namespace, "service_account": service_account, "pod": pod}
        spiffe_id = SpiffeId.parse(_PLACEHOLDER.sub(lambda found: _name(found[1], names), self.text))
        if is_reserved_id(spiffe_id):
            raise InvalidArgument(Reason.ENTRY_RESERVED_ID, f"{spiffe_id} is reserved for Citadel itself")
        return spiffe_id


def _name(placeholder: str, names: Mapping[str, str]) -> str:
    """A name as a part of one segment: one that held a slash would be another identity's path."""
    name = names[placeholder]
    if _SEGMENT.fullmatch(name) is None:
        raise InvalidArgument(
            Reason.ID_MALFORMED,
            f"the {placeholder} {name[:200]!r} cannot stand in a SPIFFE ID, which knows a-z A-Z 0-9 '.' '-' '_'",
        )
    return name
