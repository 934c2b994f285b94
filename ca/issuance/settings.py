"""The section `svids` of the server's settings."""

from __future__ import annotations

from datetime import timedelta
from typing import Final, Self

from pydantic import Field, model_validator

from ca.authority.jwt_model import LONGEST_TOKEN
from citadel.config.types import Duration, Settings

_LEAST_LIFETIME: Final = timedelta(seconds=1)
_MOST_BACKDATE: Final = timedelta(hours=1)


class SvidSettings(Settings):
    """Lifetimes of leaves. An entry may ask for less or more than the default, never for more than the cap."""

    default_lifetime: Duration = Field(default=timedelta(hours=1), ge=_LEAST_LIFETIME)
    max_lifetime: Duration = Field(default=timedelta(hours=24), ge=_LEAST_LIFETIME)
    agent_lifetime: Duration = Field(default=timedelta(hours=1), ge=_LEAST_LIFETIME)
    backdate: Duration = Field(default=timedelta(seconds=10), le=_MOST_BACKDATE)
    jwt_default_lifetime: Duration = Field(default=timedelta(minutes=5), ge=_LEAST_LIFETIME)
    jwt_max_lifetime: Duration = Field(default=timedelta(hours=1), ge=_LEAST_LIFETIME, le=LONGEST_TOKEN)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.default_lifetime > self.max_lifetime:
            raise ValueError("default_lifetime must be at most max_lifetime")
        if self.agent_lifetime > self.max_lifetime:
            raise ValueError("agent_lifetime must be at most max_lifetime")
        if self.jwt_default_lifetime > self.jwt_max_lifetime:
            raise ValueError("jwt_default_lifetime must be at most jwt_max_lifetime")
        return self
