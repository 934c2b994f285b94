"""Asking a PKI engine for issuing authorities, with keys that are made here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import structlog

from ca.authority.fresh_key import fresh_key
from ca.authority.ports import KeyManager, MintedIssuer, SignedDownstream
from ca.issuance.csr import public_key_of
from ca.keys.kinds import AuthorityPublicKey
from ca.keys.sealing import KeyPurpose
from ca.upstream.asking import issuer_request
from ca.upstream.refusals import Refusals
from ca.upstream.vault.answer import by_parameters, by_request, checked_answer, term_of, warnings_of
from ca.upstream.vault.engine import PkiEngine
from ca.upstream.vault.offer import Line
from citadel.clock import Clock
from citadel.errors import FailedPrecondition, Reason
from citadel.spiffe import TrustDomain

_log = structlog.get_logger(__name__)

_ASK_AGAIN: Final = 60.0  # seconds after what only a person can mend
_ASK_SOON: Final = 5.0  # seconds after what waiting mends


class VaultSigning:
    """Asks, and does not ask again soon where that failed. `notes` are what Vault warned of when it signed last."""

    def __init__(
        self, engine: PkiEngine, *, trust_domain: TrustDomain, keys: KeyManager, is_constrained: bool, clock: Clock
    ) -> None:
        self._engine = engine
        self._trust_domain = trust_domain
        self._keys = keys
        self._is_constrained = is_constrained
        self._clock = clock
        self._answered: dict[str, Refusals] = {}  # by issuer: one that refuses keeps nothing from another
        self._below = Refusals(clock=clock)  # what children ask for keeps nothing from this server
        self.notes: tuple[str, ...] = ()

    def answered(self, line: Line) -> Refusals:
        """What was answered last by what signs there."""
        return self._answered.setdefault(line.issuer_id, Refusals(clock=self._clock))

    def refused(self) -> Refusals | None:
        """Of what signs somewhere, where that was no."""
        return next((each for each in self._answered.values() if each.last is not None), None)

    def note_lines(self, lines: Iterable[Line]) -> None:
        """These can sign from now on, and Vault answers."""
        ids = {line.issuer_id for line in lines}
        self._answered = {each: answered for each, answered in self._answered.items() if each in ids}
        for answered in self._answered.values():
            answered.waiting_is_over()

    async def mint(self, line: Line, *, root_id: str, not_before: datetime, not_after: datetime) -> MintedIssuer:
        """An issuing authority of this server."""
        if (trouble := self._engine.vault.trouble()) is not None:
            raise trouble  # before a key is made: this may be tried again and again
        answered = self.answered(line)
        answered.check()
        async with fresh_key(self._keys, KeyPurpose.ISSUER) as (key_id, key):
            csr = await issuer_request(key, self._trust_domain, is_constrained=self._is_constrained)
            with answered.asking(soon=_ASK_SOON, later=_ASK_AGAIN):
                signed, notes = await self._signed(
                    line, by_request(csr), key.public_key(), not_before=not_before, not_after=not_after
                )
        self.notes = notes
        return MintedIssuer(certificate=signed.chain[0], root_id=root_id, key_id=key_id, chain=signed.chain[1:])

    async def sign_downstream(
        self, line: Line, csr: bytes, *, not_before: datetime, not_after: datetime
    ) -> SignedDownstream:
        """An issuing authority of a child, for the key of its request."""
        if self._is_constrained:
            raise FailedPrecondition(
                Reason.UPSTREAM_CANNOT_SIGN,
                "the authority of a child cannot be constrained: constraints stand in requests, and its own counts not",
                fix="set upstream.vault.constrained to false, or give the child an upstream of its own",
            )
        key, parameters = public_key_of(csr), by_parameters(csr, self._trust_domain)
        with self._below.asking(soon=_ASK_SOON, later=_ASK_SOON):
            signed, _ = await self._signed(line, parameters, key, not_before=not_before, not_after=not_after)
        return signed

    async def _signed(
        self,
        line: Line,
        parameters: Mapping[str, Any],
        public_key: AuthorityPublicKey,
        *,
        not_before: datetime,
        not_after: datetime,
    ) -> tuple[SignedDownstream, tuple[str, ...]]:
        term = term_of(line, not_before=not_before, not_after=not_after, now=self._clock.now())
        issued = await self._engine.sign(line.issuer_id, {**parameters, **term.parameters()})
        signed = await asyncio.to_thread(
            checked_answer,
            issued,
            line,
            term,
            public_key=public_key,
            trust_domain=self._trust_domain,
            is_constrained=self._is_constrained,
        )
        warnings = warnings_of(issued)
        for warning in warnings:
            _log.warning("an authority was signed", warning=warning)
        return signed, warnings
