"""What the authority manager needs of the world."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cryptography import x509

from ca.authority.model import Authority, AuthorityKind, AuthorityState
from ca.keys.kinds import AuthorityKey
from ca.keys.remote import SigningKey
from ca.keys.sealing import KeyPurpose
from citadel.jwk import JwtKey
from citadel.revocation import RevocationList
from citadel.succession import Succession


class KeyManager(Protocol):
    """Holds the private keys of authorities. `ca.keys.manager` is the default."""

    async def create(self, purpose: KeyPurpose) -> str:
        """Make a key; when this returns, the key survives a crash. Returns its id."""
        ...

    async def adopt(self, key: AuthorityKey, purpose: KeyPurpose) -> str:
        """Take a key that was made elsewhere; when this returns, it survives a crash. Returns its id."""
        ...

    async def signer(self, key_id: str, purpose: KeyPurpose) -> SigningKey:
        """What signs with the key.

        Raises `FailedPrecondition` (`key_unsealable`, or `vault_key_lost` where it is gone from Vault), or as
        `RemoteKey.sign`.
        """
        ...

    async def delete(self, key_id: str) -> None:
        """Forget the key; a key that does not exist is no error."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSequences:
    """The sequence of the own bundle, and what it was when each half of it changed last.

    Who is never sent one half, as Envoy JWT keys, does not follow when that half changes.
    """

    bundle: int
    x509: int
    jwt: int


class AuthorityStore(Protocol):
    """Where authorities are recorded."""

    async def load(self) -> Sequence[Authority]:
        """Every authority that was not revoked, oldest first."""
        ...

    async def record(self, authority: Authority) -> None:
        """Insert `authority`, or put it in the place of one with its id that nobody has seen: a failed try's."""
        ...

    async def set_states(self, states: Mapping[str, AuthorityState]) -> None:
        """Change the states of authorities, by id, all in one transaction."""
        ...

    async def tainted_roots(self) -> Sequence[x509.Certificate]:
        """Every root that was tainted once, also those that are gone."""
        ...

    async def bundle_sequences(self, *, x509: str, jwt: str) -> BundleSequences:
        """The numbers of the own bundle whose halves have these digests: as recorded, or the next if one changed."""
        ...


class Lists(Protocol):
    """Keeps a revocation list of every authority. `ca.revocation.lists` is the one there is."""

    def settled(
        self, authorities: Sequence[Authority], others: Sequence[RevocationList] | None = ()
    ) -> AbstractAsyncContextManager[None]:
        """Have a list of each of these, beside those of `others`, and of nobody else.

        `others` is None where not every authority is known that this bundle vouches for: then nothing is published,
        since whoever has lists refuses every authority that it has none of.

        They are published at the end of the context, in the same moment as the bundle that is put in force as the last
        thing within it: the one is judged by the other.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MintedIssuer:
    """An issuing authority that an upstream brought, and the root that it leads to.

    `key_id` names its key, which is in the key manager; `chain` is what stands between it and its root.
    """

    certificate: x509.Certificate
    root_id: str
    key_id: str
    chain: tuple[x509.Certificate, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedDownstream:
    """An issuing authority of a child: its certificate first, without `root`, which it leads to."""

    chain: tuple[x509.Certificate, ...]
    root: x509.Certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """What an upstream has put up, and a rotation is to take: an issuing authority, or (`is_root`) another root too.

    `is_urgent` where what signs now is not to be trusted any more: then nobody is waited for. `certificate` is the
    issuing authority, where it is at hand already.
    """

    is_root: bool
    why: str
    is_urgent: bool = False
    certificate: x509.Certificate | None = None


class Neighbours(Protocol):
    """What other clusters of the same trust domain bring into the bundle and the lists of this one."""

    def roots(self) -> Sequence[x509.Certificate]:
        """Authorities that workloads trust beside the upstream's. They open no listener of ours."""
        ...

    def jwt_keys(self) -> Mapping[str, JwtKey]:
        """Keys for tokens, by key id."""
        ...

    def lists(self) -> Sequence[RevocationList] | None:
        """The revocation lists of their authorities; None where they are not all known."""
        ...


class UpstreamAuthority(Protocol):
    """Brings this server's issuing authorities, and says which roots the trust bundle must hold."""

    @property
    def decides(self) -> frozenset[AuthorityKind]:
        """What is rotated when the upstream has put something up, and neither by time nor by a person here."""
        ...

    @property
    def advice(self) -> str:
        """What a person does there who wants to have rotated what it decides."""
        ...

    async def start(self) -> None:
        """Make ready; for `self`, make the first root where there is none."""
        ...

    def can_mint(self) -> bool:
        """Whether it would bring an issuing authority now: where it knows that it would not, it is not asked."""
        ...

    def can_make_root(self) -> bool:
        """The same of a root, where roots are made because their time has come."""
        ...

    def cannot_sign(self) -> str:
        """Why nothing comes from the active root ever again, where it would from another one; "" where that is not so.

        What is said of it: what it signed last has ended.
        """
        ...

    async def mint(self, *, not_before: datetime, not_after: datetime, root_id: str = "") -> MintedIssuer:
        """Bring an issuing authority under the root of this id, or else under the active one.

        Its end may come sooner than asked for, and later only where nobody can ask. Raises `Unavailable`
        (`upstream_unavailable`, `issuer_unavailable`) or `FailedPrecondition` (`upstream_invalid`; `upstream_decides`
        where there is none but those that were brought).
        """
        ...

    async def sign_downstream(self, csr: bytes, *, not_before: datetime, not_after: datetime) -> SignedDownstream:
        """Sign an issuing authority of a child by the active root; its end may come sooner than asked for.

        `csr` (DER) was checked; only its public key counts. Raises as `mint`, and `FailedPrecondition`
        (`upstream_cannot_sign`).
        """
        ...

    def pending(self) -> Pending | None:
        """What a rotation is to take now, if the upstream has put something up."""
        ...

    async def prepare(self, authority_id: str) -> None:
        """Make a root of this id, which the bundle holds from now on and which signs nothing yet.

        Does nothing where it is there already: whoever was killed meanwhile asks again.
        """
        ...

    async def activate(self, authority_id: str, *, taints: bool) -> None:
        """Mint under this root from now on. The one before becomes OLD; with `taints` all others are TAINTED."""
        ...

    async def drop(self, authority_ids: Collection[str]) -> None:
        """Forget roots that are not the active one, with their keys. Those that are gone already are no error.

        One that was not tainted vouches for the active one before, where the upstream can have it do so.
        """
        ...

    def roots(self) -> tuple[x509.Certificate, ...]:
        """The certificates of the trust bundle, oldest first."""
        ...

    def successions(self) -> Sequence[Succession]:
        """What roots that are gone said of those after them, as far as it still holds."""
        ...

    def authorities(self) -> tuple[Authority, ...]:
        """The roots as authorities with their states, for people to look at."""
        ...
