"""What Vault says of itself, as values. Where it says no instead, that stands in the fact's place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeAlias, TypeVar

from ca.upstream.vault.engine import VaultIssuer
from citadel.errors import CitadelError

T = TypeVar("T")
Seen: TypeAlias = T | CitadelError


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What it says to anybody. `asked_at` is the clock here in the middle of the question."""

    version: str
    is_initialized: bool
    is_sealed: bool
    time: datetime
    asked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """The token of this server. `lease` is None where it never ends; `uses` is 0 where they are not counted."""

    policies: tuple[str, ...]
    lease: timedelta | None
    is_renewable: bool
    uses: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A secrets engine. `longest` is the longest lease, None where that is the default of the whole Vault."""

    engine: str
    longest: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pki:
    """A PKI secrets engine; `leading` is the id of the issuer that is to sign, and `usages` are what it may."""

    mount: Seen[Mount]
    issuers: Seen[Sequence[VaultIssuer]]
    leading: Seen[str]
    usages: Seen[frozenset[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key of a Transit secrets engine."""

    kind: str
    is_exportable: bool
    has_plaintext_backup: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """A Transit secrets engine, and what its keys are called where that may be listed."""

    mount: Seen[Mount]
    names: Seen[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """The key that seals others.

    `has_sealed` says whether a key is known to be on record that Vault sealed, `opened` why it cannot be opened.
    """

    mount: Seen[Mount]
    key: Seen[Key]
    has_sealed: bool = False
    opened: CitadelError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultFacts:
    """All that was found. What was not asked for, or could not be for what stands before it, is None.

    `allowed` has the capabilities of the token at each path that was asked about.
    """

    health: Seen[Health]
    login: Seen[Login] | None = None
    allowed: Seen[Mapping[str, frozenset[str]]] = field(default_factory=dict)
    pki: Pki | None = None
    transit: Keys | None = None
    seal: Seal | None = None
