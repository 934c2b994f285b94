"""The section `oidc` of the server's settings."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, model_validator

from citadel.config.types import Address, Duration, Settings

# In the one form that has no other spelling, since those who check tokens compare it letter by letter.
_ISSUER: Final = re.compile(
    r"https://(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\])(?::[1-9][0-9]{0,4})?(?:/[A-Za-z0-9._~-]+)*"
)
_HIDDEN: Final = re.compile(r"/\.\.?(?:/|$)|:443(?:/|$)")
_MOST_ISSUER: Final = 255  # what AWS takes


def _issuer(url: str) -> str:
    if _ISSUER.fullmatch(url) is None or _HIDDEN.search(url) or len(url) > _MOST_ISSUER:
        raise ValueError(
            "must be a URL like https://example.org or https://example.org/mesh, in small letters up to the path, "
            f"with no port 443, query, fragment or / at its end, at most {_MOST_ISSUER} characters long"
        )
    return url


IssuerUrl = Annotated[str, AfterValidator(_issuer)]


class OidcSettings(Settings):
    """Who issues JWT-SVIDs in the eyes of strangers, and where they ask for its keys.

    `issuer` is the `iss` of every JWT-SVID; null: there is none. `listen` is where discovery is served over TLS, with
    the certificate and the key in these files; null: another program serves it. `max_age` is how long they may keep
    what they were answered, and so how long a new key waits until it signs.
    """

    issuer: IssuerUrl | None = None
    listen: Address | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    max_age: Duration = Field(default=timedelta(minutes=5), ge=timedelta(seconds=1), le=timedelta(days=1))

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {"issuer": self.issuer, "certificate_file": self.certificate_file, "key_file": self.key_file}
        missing = [name for name, value in needed.items() if value is None]
        if self.listen is not None and missing:
            raise ValueError(f"listen needs {' and '.join(missing)} too")
        return self
