"""SPIFFE IDs and trust domains, parsed once at the border into frozen values.

Source: SPIFFE-ID.md (the lines ID-* of the conformance checklist). Uppercase in a scheme or trust domain is
refused, not folded: `docs/decisions/0002-uppercase-trust-domains.md`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from citadel.errors import InvalidArgument, Reason

SCHEME: Final = "spiffe://"
MAX_ID_BYTES: Final = 2048  # ID-19, ID-20
MAX_TRUST_DOMAIN_BYTES: Final = 255  # ID-21

# `fullmatch` only: `match` with a `$` would take a trailing newline.
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]+")
_SEGMENT: Final = re.compile(r"[a-zA-Z0-9._-]+")


@dataclass(frozen=True, slots=True, order=True)
class TrustDomain:
    """The name of a trust domain, such as `example.org`.

    Looks like a DNS name and is not treated as one: `1.2.3.4`, `a..b` and `-a` are all valid (ID-10).
    """

    name: str

    def __post_init__(self) -> None:
        if len(self.name) > MAX_TRUST_DOMAIN_BYTES:
            raise _bad_trust_domain(self.name, f"is longer than {MAX_TRUST_DOMAIN_BYTES} bytes")
        if _TRUST_DOMAIN.fullmatch(self.name) is None:
            raise _bad_trust_domain(self.name, _what_is_wrong_with(self.name))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take a bare name (`example.org`) or the ID that names the domain itself (`spiffe://example.org`).

        Raises `InvalidArgument` (`trust_domain_malformed`), naming the rule.
        """
        return cls(text.removeprefix(SCHEME))

    @property
    def id(self) -> SpiffeId:
        """The ID of the trust domain itself, without a path: what its authorities carry (ID-23)."""
        return SpiffeId(self, "")

    def member(self, *segments: str) -> SpiffeId:
        """The ID with these path segments in this trust domain."""
        return SpiffeId(self, "".join(f"/{segment}" for segment in segments))

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """A SPIFFE ID: a trust domain and a path, which is empty or starts with `/`. Compares case-sensitively (ID-17)."""

    trust_domain: TrustDomain
    path: str

    def __post_init__(self) -> None:
        problem = _what_is_wrong_with_path(self.path)
        if problem:
            raise _bad_id(str(self), problem)
        if len(SCHEME) + len(self.trust_domain.name) + len(self.path) > MAX_ID_BYTES:
            raise _bad_id(str(self), f"is longer than {MAX_ID_BYTES} bytes")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `spiffe://trust-domain/path`.

        Nothing is normalised, decoded or trimmed: an ID that is not already in its one form is refused with
        `InvalidArgument` (`id_malformed` or `trust_domain_malformed`).
        """
        if not text.startswith(SCHEME):
            raise _bad_id(text, f"does not start with {SCHEME!r}")
        name, slash, rest = text.removeprefix(SCHEME).partition("/")
        return cls(TrustDomain(name), slash + rest)

    def is_member_of(self, trust_domain: TrustDomain) -> bool:
        """Whether this ID lies in `trust_domain`."""
        return self.trust_domain == trust_domain

    def __hash__(self) -> int:
        return hash(self.path)  # which keeps its own: IDs are looked up for every certificate

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain.name}{self.path}"


def _what_is_wrong_with_path(path: str) -> str:
    if not path:
        return ""
    if not path.startswith("/"):
        return "has a path that does not start with '/'"
    for segment in path[1:].split("/"):
        if not segment:
            return "has an empty path segment or a trailing slash"
        if segment in (".", ".."):
            return f"has a {segment!r} segment"
        if _SEGMENT.fullmatch(segment) is None:
            return "has a path character other than a-z A-Z 0-9 '.' '-' '_'"
    return ""


def _what_is_wrong_with(name: str) -> str:
    if not name:
        return "is empty"
    if name != name.lower():
        return "has uppercase letters"
    for mark, meaning in (("@", "user information"), (":", "a port"), ("%", "percent-encoding")):
        if mark in name:
            return f"has {meaning}"
    return "has a character other than a-z 0-9 '.' '-' '_'"


def _bad_trust_domain(name: str, problem: str) -> InvalidArgument:
    return InvalidArgument(Reason.TRUST_DOMAIN_MALFORMED, f"trust domain {name[:300]!r} {problem}")


def _bad_id(text: str, problem: str) -> InvalidArgument:
    return InvalidArgument(Reason.ID_MALFORMED, f"SPIFFE ID {text[:300]!r} {problem}")
