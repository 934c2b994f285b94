"""The section `authorities` of the server's settings."""

from __future__ import annotations

from datetime import timedelta
from typing import Self

from pydantic import model_validator

from ca.keys.kinds import KeyKind
from citadel.config.types import AtLeastASecond, Settings


class AuthoritySettings(Settings):
    """Lifetimes of the self-signed root, of the issuing authorities under it, and of the keys that sign JWT-SVIDs.

    `key` is what the keys of roots and issuing authorities are that are made from now on, `jwt_key` those for tokens.
    """

    root_lifetime: AtLeastASecond = timedelta(days=365)
    issuer_lifetime: AtLeastASecond = timedelta(days=7)
    jwt_lifetime: AtLeastASecond = timedelta(days=7)
    key: KeyKind = KeyKind.EC_P256
    jwt_key: KeyKind = KeyKind.EC_P256

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.issuer_lifetime > self.root_lifetime:
            raise ValueError("issuer_lifetime must be at most root_lifetime")
        return self
