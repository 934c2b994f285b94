"""The other clusters under the same root, of which nothing is known but that they may be there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from cryptography import x509

from citadel.jwk import JwtKey
from citadel.revocation import RevocationList

_WHY_NO_LISTS: Final = (
    "other clusters under the same root may have authorities whose lists are not known here: where none has, set "
    "{setting}. A proxy that has lists refuses every authority that it has none of. For what is revoked "
    "nothing new is issued, and listeners that ask the agent refuse revoked identities; others take a certificate "
    "until it ends"
)


def why_no_lists(setting: str) -> str:
    """Why none are pushed where `setting` is not set."""
    return _WHY_NO_LISTS.format(setting=setting)


class StrangersUnderTheRoot:
    """Fulfils `Neighbours`: they have issuing authorities whose lists nobody here has, so that none are pushed.

    A verifier that has lists refuses every authority that it has none of. `alone` where there are no such clusters.
    """

    def __init__(self, *, alone: bool) -> None:
        self._alone = alone

    def roots(self) -> Sequence[x509.Certificate]:
        return ()

    def jwt_keys(self) -> Mapping[str, JwtKey]:
        return {}

    def lists(self) -> Sequence[RevocationList] | None:
        return () if self._alone else None
