"""Rotating the root of a PKI engine from here, where its policy allows that.

Each act, done again after a crash, finds what the first try left behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from cryptography import x509

from ca.authority.soundness import domain_fault, root_faults
from ca.keys.kinds import KeyKind
from ca.upstream.lineage import namesakes
from ca.upstream.refusals import Refusals
from ca.upstream.vault.answer import begins_back
from ca.upstream.vault.engine import PkiEngine, VaultIssuer, invalid
from citadel.clock import Clock
from citadel.config.types import format_duration
from citadel.errors import Reason, Unavailable
from citadel.serial import new_serial
from citadel.spiffe import TrustDomain

_log = structlog.get_logger(__name__)

_ASK_AGAIN: Final = 5.0  # seconds: whoever drives a rotation tries again every second

_KEYS: Final[Mapping[KeyKind, Mapping[str, Any]]] = {
    KeyKind.EC_P256: {"key_type": "ec", "key_bits": 256},
    KeyKind.EC_P384: {"key_type": "ec", "key_bits": 384},
    KeyKind.RSA_2048: {"key_type": "rsa", "key_bits": 2048},
    KeyKind.RSA_4096: {"key_type": "rsa", "key_bits": 4096},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RootTerms:
    """What new roots are made like."""

    key: KeyKind
    lifetime: timedelta


class VaultRooting:
    """Makes roots named `citadel-ID`, has them sign, and has those before them sign nothing more."""

    def __init__(self, engine: PkiEngine, *, trust_domain: TrustDomain, terms: RootTerms, clock: Clock) -> None:
        self._engine = engine
        self._trust_domain = trust_domain
        self._terms = terms
        self.making = Refusals(clock=clock)
        self.ending = Refusals(clock=clock)  # of those before, or of one that came to nothing
        self.notes: tuple[str, ...] = ()

    async def make(
        self, authority_id: str, known: Sequence[x509.Certificate], *, now: datetime
    ) -> tuple[VaultIssuer, x509.Certificate]:
        """The root of this id, made now where it is not there. Checks first whether all of the rotation is allowed."""
        with self.making.asking(soon=_ASK_AGAIN, later=_ASK_AGAIN):
            return await self._make(name_of(authority_id), known, now)

    async def activate(self, certificate: x509.Certificate) -> None:
        """Have it be the default, by which others in the mount are signed too."""
        with self.making.asking(soon=_ASK_AGAIN, later=_ASK_AGAIN):
            for issuer in await self._engine.issuers():
                if issuer.certificate == certificate:
                    await self._engine.make_default(issuer.id)
                    return

    async def retire(
        self,
        certificates: Collection[x509.Certificate],
        authority_ids: Collection[str],
        *,
        stay: Collection[x509.Certificate],
    ) -> Collection[x509.Certificate]:
        """Have these sign nothing more, and those that were made for these ids, of which nothing may be on record.

        None of those that `stay`; and none that people made and that never signed here. Returns which.
        """
        names, retired = {name_of(each) for each in authority_ids}, set[x509.Certificate]()
        with self.ending.asking(soon=_ASK_AGAIN, later=_ASK_AGAIN):
            for issuer in await self._engine.issuers():
                is_meant = issuer.certificate in certificates or issuer.name in names
                if is_meant and issuer.certificate is not None and issuer.certificate not in stay:
                    await self._engine.retire(issuer)
                    retired.add(issuer.certificate)
                    _log.info("root retired in Vault", issuer=str(issuer))
        self.making.end()
        return retired

    async def _make(
        self, name: str, known: Sequence[x509.Certificate], now: datetime
    ) -> tuple[VaultIssuer, x509.Certificate]:
        found = await self._named(name)
        if found is None:
            if missing := (await self._engine.lacking((), rotates=True)).to_rotate:
                raise Unavailable(
                    Reason.VAULT_DENIED,
                    f"the policy does not allow {', '.join(missing)}: nothing was changed",
                    fix="add these to the policy, or abort the rotation and set upstream.vault.rotate_root to false",
                )
            issued = await self._engine.make_root(self._parameters(name))
            _log.info("root made in Vault", issuer=name)
            found = await self._named(name)
            self.notes = tuple(
                f"Vault warns of the root {name}: {each}" for each in issued.warnings if "AIA" not in each
            )
        certificate = found.certificate if found is not None else None
        if found is None or certificate is None:
            raise invalid(self._engine.mount, f"has made a root {name} that cannot be read")
        await asyncio.to_thread(self._check, name, certificate, known, now)
        return found, certificate

    def _parameters(self, name: str) -> Mapping[str, Any]:
        return {
            "issuer_name": name,
            "key_name": name,
            "common_name": "Citadel Root",
            "serial_number": f"{new_serial():032x}",  # of the subject: BoringSSL looks issuers up by name
            "uri_sans": str(self._trust_domain.id),
            "exclude_cn_from_sans": True,
            "ttl": f"{self._terms.lifetime // timedelta(seconds=1)}s",
            "not_before_duration": f"{begins_back(self._terms.lifetime) // timedelta(seconds=1)}s",
            **_KEYS[self._terms.key],
        }

    def _check(self, name: str, root: x509.Certificate, known: Sequence[x509.Certificate], now: datetime) -> None:
        fault = next(root_faults(root, now=now), "") or domain_fault(root, self._trust_domain)
        if not fault and namesakes((*known, root)):
            fault = "has the name of another root"
        if fault:
            raise invalid(self._engine.mount, f"has made a root {name} that {fault}")
        lives = timedelta(seconds=(root.not_valid_after_utc - now) // timedelta(seconds=1))
        if lives < self._terms.lifetime * 0.9:
            wanted = format_duration(self._terms.lifetime)
            note = f"Vault made a root for {format_duration(lives)}, not {wanted} as asked for: see its max_lease_ttl"
            self.notes = (*self.notes, note)
            _log.warning("Vault made a root otherwise than asked for", note=note)

    async def _named(self, name: str) -> VaultIssuer | None:
        return next((each for each in await self._engine.issuers() if each.name == name), None)


def name_of(authority_id: str) -> str:
    """What the issuer of a root is called that was made from here."""
    return f"citadel-{authority_id}"
