"""The one string that lets a machine join: where the server is, how to know it, and the right to come in once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Self

from citadel.config.types import HostPort
from citadel.errors import InvalidArgument, Reason
from citadel.spiffe import TrustDomain

# Nothing is percent-decoded: every part is of an alphabet that needs no encoding, so that a string has one form only.
_FORM: Final = re.compile(
    r"citadel://(?P<address>[^/?#@\s]+)/(?P<trust_domain>[^/?#\s]+)"
    r"\?bundle-sha256=(?P<digest>[0-9a-f]{64})&token=(?P<token>[A-Za-z0-9_-]{1,256})"
)
_FIX: Final = "paste it whole, as `citadel-cli token create` printed it"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinString:
    """`citadel://host:port/<trust domain>?bundle-sha256=<hex>&token=<token>`.

    `address` is the server's bootstrap listener, `bundle_sha256` the `x509_digest` of its trust bundle. `str()` gives
    the whole string and is a secret; `repr()` leaves the token out, so that a log never holds it.
    """

    address: HostPort
    trust_domain: TrustDomain
    bundle_sha256: str
    token: str = field(repr=False)

    def __post_init__(self) -> None:
        if self.address.port == 0 or _FORM.fullmatch(str(self)) is None:
            raise _malformed("has a part that cannot stand in it")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the form above, ignoring white space around it, since it is read from files.

        Raises `InvalidArgument` (`join_string_malformed`), never repeating the text, which may hold a token.
        """
        found = _FORM.fullmatch(text.strip())
        if found is None:
            raise _malformed("is not citadel://host:port/<trust domain>?bundle-sha256=<hex>&token=<token>")
        try:
            address = HostPort.parse(found["address"])
            trust_domain = TrustDomain(found["trust_domain"])
        except (ValueError, InvalidArgument) as error:
            raise _malformed(f"has a bad part: {error}") from error
        return cls(address=address, trust_domain=trust_domain, bundle_sha256=found["digest"], token=found["token"])

    def __str__(self) -> str:
        return f"citadel://{self.address}/{self.trust_domain}?bundle-sha256={self.bundle_sha256}&token={self.token}"


def _malformed(problem: str) -> InvalidArgument:
    return InvalidArgument(Reason.JOIN_STRING_MALFORMED, f"the join string {problem}", fix=_FIX)
