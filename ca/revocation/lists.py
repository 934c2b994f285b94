"""The signed lists: one of each authority whose certificates can still be valid, kept, and pushed as one set."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authority.model import Authority, AuthorityKind
from ca.authority.ports import KeyManager
from ca.keys.sealing import KeyPurpose
from ca.keys.signing import sign_with
from ca.revocation.crl import build_crl, number_of
from ca.revocation.model import RevokedCertificate
from ca.revocation.ports import ListStore
from citadel._wire import types_pb2
from citadel.errors import CitadelError, FailedPrecondition, InvalidArgument, Unavailable
from citadel.revocation import RevocationList, RevocationSet
from citadel.revocation_reading import check_lists

_log = structlog.get_logger(__name__)

_PURPOSES = {AuthorityKind.ROOT: KeyPurpose.ROOT, AuthorityKind.ISSUER: KeyPurpose.ISSUER}


class RevocationLists:
    """Fulfils `ca.authority.ports.Lists`. `current` is what every proxy is to check against.

    A verifier that has lists refuses every issuer that it has none of, so the set is whole or empty: where there is no
    list of one issuing authority and none can be signed, or agents would refuse the set, nothing is pushed, and
    `trouble` says why. A root without a list is left out: whoever checks whole chains then does without lists, see
    `RevocationSet.covers_roots_of`. Where a key that is away, or gone, keeps a list from being signed anew, the last
    one stays, and `behind` says why; `catch_up` tries again.
    """

    def __init__(self, *, keys: KeyManager, store: ListStore, why_none: str = "") -> None:
        """`why_none` is set where the lists of others are never known here, and says what that means."""
        self.is_meant_to_have_none = bool(why_none)
        self._why_none = why_none or "the lists of other clusters of this trust domain are not all known here"
        self._keys = keys
        self._store = store
        self._kept: dict[str, x509.CertificateRevocationList] | None = None  # by authority, as the store has them
        self._authorities: tuple[Authority, ...] = ()
        self._others: Sequence[RevocationList] | None = ()
        self._revoked: Mapping[str, Sequence[RevokedCertificate]] = {}
        self._serials: frozenset[tuple[str, str]] = frozenset()  # the same, by authority and serial
        self._watchers: list[Callable[[], None]] = []
        self._turn = asyncio.Lock()
        self.current = RevocationSet()
        self.message = types_pb2.RevocationSet()  # the same, as it is pushed: made once for all agents
        self.trouble = ""
        self.behind = ""
        self.own: tuple[RevocationList, ...] = ()  # of this server's authorities, also where nothing is pushed

    def watch(self, callback: Callable[[], None]) -> None:
        """Call `callback` at every change of `current`, and of what is revoked here, from now on."""
        self._watchers.append(callback)

    def has_revoked(self, authority_id: str, serial: str) -> bool:
        """Whether this certificate of an authority of this server was revoked, also where no list is pushed."""
        return (authority_id, serial) in self._serials

    @asynccontextmanager
    async def settled(
        self, authorities: Sequence[Authority], others: Sequence[RevocationList] | None = ()
    ) -> AsyncIterator[None]:
        async with self._turn:
            self._authorities, self._others = tuple(authorities), others
            signed = await self._sign()
            yield
            self._publish(signed)  # without an `await` since the bundle changed: nobody sees the one without the other

    async def revoke(self, certificates: Iterable[RevokedCertificate]) -> None:
        """Have these, which are all that are revoked and have not ended, in the lists. They are published on return."""
        certificates, revoked = tuple(certificates), defaultdict[str, list[RevokedCertificate]](list)
        for each in certificates:
            revoked[each.issuer_id].append(each)
        async with self._turn:
            before, self._revoked = self._serials, revoked
            self._serials = frozenset((each.issuer_id, each.serial) for each in certificates)
            if self._authorities:  # otherwise they come after this, at the start
                self._publish(await self._sign(), has_news=self._serials != before)

    async def catch_up(self) -> None:
        """Sign what could not be signed, if the keys are back. Raises `Unavailable` (`store_unavailable`)."""
        if self.behind:
            async with self._turn:
                self._publish(await self._sign())

    async def _sign(self) -> RevocationSet:
        kept = await self._load()
        self.own, trouble, behind = await self._sign_own(kept)
        gone = [authority_id for authority_id in kept if all(each.id != authority_id for each in self._authorities)]
        if gone:
            await self._store.forget_lists(gone)
            for authority_id in gone:
                del kept[authority_id]
        signed = RevocationSet()
        if not trouble and self._others is None:
            trouble = self._why_none
        elif not trouble and self._others is not None:
            # Of several lists of one authority the first is the one that comes from nearest to it.
            by_issuer = {each.issuer: each for each in reversed((*self.own, *self._others))}
            roots = [each.certificate for each in self._authorities if each.kind is AuthorityKind.ROOT]
            try:
                signed = await asyncio.to_thread(_whole, tuple(by_issuer.values()), roots)
            except InvalidArgument as error:
                trouble = f"agents would refuse all of them: {error.message}"
        self._note(trouble, behind)
        return signed

    async def _sign_own(
        self, kept: dict[str, x509.CertificateRevocationList]
    ) -> tuple[tuple[RevocationList, ...], str, str]:
        """Those of this server's authorities, why one that is needed is not there, and why one does not say all.

        Raises `Unavailable` where an authority has none yet, and its key is away.
        """
        lists: list[RevocationList] = []
        trouble = behind = ""
        for authority in self._authorities:
            crl, error = await self._list_of(authority, kept)
            if crl is not None:
                lists.append(RevocationList.of(authority.certificate, crl))
                behind = f"the list of {authority.id} lacks what was revoked last: {error}" if error else behind
            elif isinstance(error, Unavailable):
                raise error
            elif authority.kind is AuthorityKind.ISSUER:
                trouble = f"the issuing authority {authority.id} cannot sign a list: {error}"
        return tuple(lists), trouble, behind

    def _note(self, trouble: str, behind: str) -> None:
        if trouble and trouble != self.trouble:
            log = _log.info if trouble == self._why_none and self.is_meant_to_have_none else _log.error
            log("no revocation lists are pushed", why=trouble)
        if bool(behind) != bool(self.behind):  # once: the keys can be away for long
            _log.error("revocation lists are behind", why=behind) if behind else _log.info("revocation lists say all")
        self.trouble, self.behind = trouble, behind

    def _publish(self, signed: RevocationSet, *, has_news: bool = False) -> None:
        if signed.version != self.current.version:
            self.current, self.message = signed, _message(signed)
        elif not has_news:
            return
        for callback in self._watchers:
            callback()

    async def _load(self) -> dict[str, x509.CertificateRevocationList]:
        if self._kept is None:
            self._kept = {key: x509.load_der_x509_crl(der) for key, der in (await self._store.lists()).items()}
        return self._kept

    async def _list_of(
        self, authority: Authority, kept: dict[str, x509.CertificateRevocationList]
    ) -> tuple[x509.CertificateRevocationList | None, CitadelError | None]:
        """The kept list where it says all that it must, or a new one. What has ended since may stand in it.

        Where its key signs none: the kept one, if there is any, and why. That is a `FailedPrecondition` where the key
        is gone, as that of an authority which an older version has replaced, `Unavailable` where it is away.
        """
        wanted, known = self._revoked.get(authority.id, ()), kept.get(authority.id)
        if known is not None and await asyncio.to_thread(_says_all, known, wanted):
            return known, None
        number = number_of(known) + 1 if known is not None else 1
        try:
            crl = await sign_with(
                await self._keys.signer(authority.key_id, _PURPOSES[authority.kind]),
                lambda key: build_crl(issuer=authority.certificate, key=key, number=number, revoked=wanted),
                is_large=True,
            )
        except (FailedPrecondition, Unavailable) as error:
            return known, error
        await self._store.put_list(authority.id, crl.public_bytes(Encoding.DER))
        kept[authority.id] = crl
        return crl, None


def _says_all(crl: x509.CertificateRevocationList, wanted: Sequence[RevokedCertificate]) -> bool:
    said = {entry.serial_number for entry in crl} if wanted else set()
    return all(int(each.serial, 16) in said for each in wanted)


def _whole(lists: tuple[RevocationList, ...], roots: Sequence[x509.Certificate]) -> RevocationSet:
    """These as one set. Raises `InvalidArgument` (`revocations_malformed`) where no agent would take it.

    It would keep what it had then, lists and roots, however much is changed here.
    """
    check_lists(lists, roots=roots)
    return RevocationSet(lists)


def _message(published: RevocationSet) -> types_pb2.RevocationSet:
    return types_pb2.RevocationSet(
        lists=[
            types_pb2.RevocationList(
                issuer=each.issuer.public_bytes(Encoding.DER), crl=each.crl.public_bytes(Encoding.DER)
            )
            for each in published.lists
        ]
    )
