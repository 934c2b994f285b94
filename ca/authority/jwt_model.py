"""What a JWT authority is, in the store and in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from ca.authority.model import AuthorityState
from ca.keys.remote import SigningKey
from citadel.jwk import JwtKey

# Validators' clocks are behind by as much: so long after the end of its last token a key is still there.
LEEWAY: Final = timedelta(seconds=30)

# However it is set: after a restore nobody knows what was signed since the backup, but not what lives longer than this.
LONGEST_TOKEN: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtAuthority:
    """One key that signs JWT-SVIDs, or did, or will.

    `signed_until` is not before the `exp` of any token that it signed; None where it signed none.
    """

    id: str
    state: AuthorityState
    key_id: str
    public_key: JwtKey
    not_before: datetime
    not_after: datetime
    signed_until: datetime | None = None

    @property
    def kid(self) -> str:
        """What tokens and bundles call it: of the key and not of the authority, so no two keys ever have the same."""
        return self.key_id

    @property
    def needed_until(self) -> datetime | None:
        """When no token that it signed is believed any more; None where it signed none."""
        return None if self.signed_until is None else self.signed_until + LEEWAY


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtSigner:
    """The authority that signs tokens now, with its key at hand."""

    authority: JwtAuthority
    key: SigningKey = field(repr=False)
