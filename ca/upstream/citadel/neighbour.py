"""The parent as a neighbour, whose keys and lists are trusted here, and as one for whom rotations here wait."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Final

from cryptography import x509

from ca.rotation.model import Holder
from ca.upstream.citadel.authority import ParentAuthority
from ca.upstream.citadel.ports import Asked
from citadel._wire.rotation_pb2 import ClusterView
from citadel.jwk import JwtKey
from citadel.revocation import RevocationList

PARENT: Final = "parent"  # what `rotate skip` takes


class ParentNeighbour:
    """Fulfils `ca.authority.ports.Neighbours` with what the parent said last.

    It says again what it heard from here. While it is away it has not heard what was `withdrawn` since: the ids of keys
    for tokens that this cluster, or one below it, had and has no more.
    """

    def __init__(self, authority: ParentAuthority, *, withdrawn: Callable[[], Collection[str]]) -> None:
        self._authority = authority
        self._withdrawn = withdrawn

    def roots(self) -> Sequence[x509.Certificate]:
        trust = self._authority.trust
        return trust.further if trust is not None else ()

    def jwt_keys(self) -> Mapping[str, JwtKey]:
        trust = self._authority.trust
        withdrawn = self._withdrawn()
        keys = trust.bundle.jwt_authorities if trust is not None else {}
        return {kid: key for kid, key in keys.items() if kid not in withdrawn}

    def lists(self) -> Sequence[RevocationList] | None:
        trust = self._authority.trust
        return trust.lists if trust is not None and trust.lists_are_whole else None


class ParentBeyond:
    """Fulfils `ca.rotation.ports.Beyond`.

    What is new here must be known to every proxy of the other clusters before it signs: one that checks revocation
    lists refuses an authority that it has no list of, and no token is believed by a key that is not known.
    """

    def __init__(
        self,
        *,
        authority: ParentAuthority,
        parent: Asked,
        own_lists: Callable[[], Sequence[RevocationList]],
        own_keys: Callable[[], Mapping[str, JwtKey]],
    ) -> None:
        self._authority = authority
        self._parent = parent
        self._own_lists = own_lists
        self._own_keys = own_keys

    def without(self, *, is_jwt: bool) -> Sequence[Holder]:
        words = self._missing(is_jwt=is_jwt)
        if not words:
            return ()
        trouble = self._parent.trouble()
        return (Holder(name=PARENT, words=f"{words}; {trouble.message}" if trouble is not None else words),)

    def depending(self, old_ids: Collection[str], now: datetime) -> Sequence[Holder]:
        """Nobody: no root is rotated here."""
        del old_ids, now
        return ()

    def clusters(self) -> Sequence[ClusterView]:
        """None below this one."""
        return ()

    def _missing(self, *, is_jwt: bool) -> str:
        trust, everywhere = self._authority.trust, self._authority.everywhere
        if trust is None:
            return "has not been heard"
        if is_jwt:
            if not self._own_keys().items() <= trust.bundle.jwt_authorities.items():
                return "has not made known the keys for tokens of here"
            is_everywhere = everywhere.jwt == trust.versions.jwt
        elif not trust.lists_are_whole:  # nobody checks any; it will not be whole without what it is told meanwhile
            is_everywhere = everywhere.x509 == trust.versions.x509 and self._parent.trouble() is None
        else:
            said = {(each.issuer, each.crl.tbs_certlist_bytes) for each in trust.lists}
            if any((each.issuer, each.crl.tbs_certlist_bytes) not in said for each in self._own_lists()):
                return "has not made known the revocation lists of here"
            is_everywhere = everywhere.x509 == trust.versions.x509
        return "" if is_everywhere else "not every proxy of the other clusters has acknowledged what is new here"
