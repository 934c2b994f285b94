"""Roots of other clusters of the own trust domain, exchanged on purpose: what workloads trust beside our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from cryptography import x509

from ca.audit.model import Act
from citadel.jwk import JwtKey
from citadel.revocation import RevocationList


class ExchangedStore(Protocol):
    """Where exchanged roots are durable."""

    async def load(self) -> Sequence[x509.Certificate]:
        """All of them."""
        ...

    async def replace(self, roots: Sequence[x509.Certificate], act: Act) -> None:
        """Have these and no others, with `act` noted in the same transaction."""
        ...

    async def retired(self) -> Sequence[x509.Certificate]:
        """The roots that this cluster has had and dropped."""
        ...


class ExchangedRoots:
    """Fulfils `ca.authority.ports.Neighbours`. Whoever changes it has the authorities settled anew.

    The issuing authorities under these roots, and their revocation lists, are not known here. A proxy that has lists
    refuses every issuer that it has none of, so while there is any such root no lists are pushed at all.
    """

    def __init__(self, *, store: ExchangedStore) -> None:
        self._store = store
        self._roots: tuple[x509.Certificate, ...] = ()

    async def start(self) -> None:
        """Fill memory from the store. Call it before the authorities start."""
        self._roots = tuple(await self._store.load())

    async def replace(self, roots: Sequence[x509.Certificate], act: Act) -> None:
        """Have these and no others, durable first."""
        await self._store.replace(roots, act)
        self._roots = tuple(roots)

    async def retired(self) -> Sequence[x509.Certificate]:
        """The roots that this cluster has had and dropped."""
        return await self._store.retired()

    def roots(self) -> tuple[x509.Certificate, ...]:
        return self._roots

    def jwt_keys(self) -> Mapping[str, JwtKey]:
        return {}

    def lists(self) -> Sequence[RevocationList] | None:
        return None if self._roots else ()
