"""The section `svids` of the server's settings."""

from __future__ import annotations

from datetime import timedelta
from typing import Final, Self

from pydantic import Field, model_validator

from ca.authority.jwt_model import LONGEST_TOKEN
from citadel.config.types import AtLeastASecond, Duration, Settings

_MOST_BACKDATE: Final = timedelta(hours=1)


class SvidSettings(Settings):
    """Lifetimes of leaves. An entry may ask for less or more than the default, never for more than the cap."""

    default_lifetime: AtLeastASecond = timedelta(hours=1)
    max_lifetime: AtLeastASecond = timedelta(hours=24)
    agent_lifetime: AtLeastASecond = timedelta(hours=1)
    backdate: Duration = Field(default=timedelta(seconds=10), le=_MOST_BACKDATE)
    jwt_default_lifetime: AtLeastASecond = timedelta(minutes=5)
    jwt_max_lifetime: AtLeastASecond = Field(default=timedelta(hours=1), le=LONGEST_TOKEN)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.default_lifetime > self.max_lifetime:
            raise ValueError("default_lifetime must be at most max_lifetime")
        if self.agent_lifetime > self.max_lifetime:
            raise ValueError("agent_lifetime must be at most max_lifetime")
        if self.jwt_default_lifetime > self.jwt_max_lifetime:
            raise ValueError("jwt_default_lifetime must be at most jwt_max_lifetime")
        return self
