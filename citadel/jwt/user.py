"""Who an end user is, once a token of theirs was believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class RequestPrincipal:
    """An end user's name, unique over all issuers: neither part is empty.

    The two are kept apart, and never compared as one text: both may hold a `/`.
    """

    issuer: str
    subject: str

    def __str__(self) -> str:
        return f"{self.issuer}/{self.subject}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndUser:
    """What a believed token says. `subject` and `presenter` (`azp`) are empty where it does not say them."""

    issuer: str
    subject: str
    audiences: tuple[str, ...]
    presenter: str
    expires_at: datetime
    claims: Mapping[str, Any] = field(repr=False)

    @property
    def principal(self) -> RequestPrincipal | None:
        """None without a subject: nobody is named then."""
        return RequestPrincipal(self.issuer, self.subject) if self.issuer and self.subject else None
