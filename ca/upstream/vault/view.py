"""What a PKI engine holds, as it was when it was looked at last."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography import x509

from ca.authority.model import Authority, AuthorityState
from ca.upstream.settings import VaultPkiSettings
from ca.upstream.telling import is_same_trouble
from ca.upstream.vault.engine import PkiEngine
from ca.upstream.vault.offer import Found, Line, Offer, offer_of
from citadel.clock import Clock
from citadel.errors import CitadelError, FailedPrecondition, Reason, Unavailable
from citadel.spiffe import TrustDomain
from citadel.unexpected import nothing_unexpected


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look found: an offer, or why there is none; or why nothing comes of it, as far as is known.

    `retired` are the ids of issuers that issue nothing any more. `missing` is what the policy lacks for rotating the
    root, `changes` how many were made from here before it.
    """

    offer: Offer | None = None
    trouble: CitadelError | None = None
    retired: frozenset[str] = frozenset()
    missing: tuple[str, ...] = ()
    changes: int = 0


class EngineView:
    """`found` is the last look, empty before there was one; what is changed in the engine from here is noted in it."""

    def __init__(
        self, engine: PkiEngine, *, settings: VaultPkiSettings, trust_domain: TrustDomain, clock: Clock
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._trust_domain = trust_domain
        self._clock = clock
        self._made: dict[x509.Certificate, Line] = {}  # roots that no look has seen yet
        self._retired: frozenset[str] = frozenset()  # stays while it cannot be read
        self._changes = 0
        self.found = Look()
        self.troubled_since: datetime | None = None

    async def look(self, roots: Collection[Authority]) -> Look:
        """Read the engine; `roots` are on record here. Changes nothing; `take` does."""
        changes = self._changes
        try:
            with nothing_unexpected("the PKI engine in Vault"):
                issuers = await self._engine.issuers()
                leading = await self._engine.leading(self._settings.issuer)
                others = [each.id for each in issuers if each.id != leading and each.certificate is not None]
                # Only where no other cluster signs under what has retired may it be trusted no more.
                usages = await self._engine.retired(others) if self._settings.alone else dict.fromkeys(others, False)
                unread = frozenset(others) - usages.keys()
                retired = frozenset(each for each in others if usages.get(each, each in self._retired))
                found = Found(issuers=issuers, leading=leading, retired=retired, unread=unread)
                with self._engine.understood():
                    offer = await asyncio.to_thread(self._judged, found, roots)
                sign = {offer.lines[each].issuer_id for each in _signing(roots) if each in offer.lines}
                lacking = await self._engine.lacking(sorted({leading} | sign), rotates=self._settings.rotate_root)
        except CitadelError as error:
            return Look(trouble=error, changes=changes)
        trouble = _denied(lacking.to_sign) if lacking.to_sign else None
        return Look(offer=offer, trouble=trouble, retired=retired, missing=lacking.to_rotate, changes=changes)

    def is_news(self, look: Look) -> bool:
        """Whether this is another view than that of the last look."""
        seen = self.found
        is_other = (look.offer, look.missing) != (seen.offer, seen.missing)
        is_seen_first = look.offer is not None and bool(self._made)
        return is_other or is_seen_first or not is_same_trouble(look.trouble, seen.trouble)

    def notes(self) -> tuple[str, ...]:
        """What is otherwise there than one might think."""
        seen, lacks = self.found.offer.notes if self.found.offer is not None else (), ", ".join(self.found.missing)
        return (*seen, f"the root cannot be rotated from here: the policy does not allow {lacks}") if lacks else seen

    @property
    def is_pinned(self) -> bool:
        """Whether the issuer that signs is named in the settings."""
        return self._settings.issuer is not None

    def take(self, look: Look) -> bool:
        """Go by this look from now on. Whether there is something to go by."""
        if look.changes != self._changes:
            return False  # it was begun before something was changed from here
        self.found = look
        self.troubled_since = (self.troubled_since or self._clock.now()) if look.trouble is not None else None
        if look.offer is None:
            return False
        self._retired = look.retired
        self._made.clear()  # what is still there was seen
        return True

    def note_made(self, line: Line) -> None:
        """A root was made from here."""
        self._made[line.root] = line
        self._changes += 1

    def note_lead(self, root: x509.Certificate) -> None:
        """This root was made the default one from here."""
        self._changes += 1
        line = self.lines().get(root)
        if self.found.offer is not None and line is not None:
            self.found = replace(self.found, offer=replace(self.found.offer, line=line))

    def note_retired(self) -> None:
        """Roots were retired from here."""
        self._changes += 1

    def offered(self) -> Offer:
        """Raises the trouble where there is no offer."""
        if self.found.offer is None:
            raise self.found.trouble or not_yet()
        return self.found.offer

    def lines(self) -> Mapping[x509.Certificate, Line]:
        """What can sign, by its root."""
        return {**self._made, **(self.found.offer.lines if self.found.offer is not None else {})}

    def line_to(self, root: Authority | None) -> Line:
        """What signs under this root, whatever the default is. Raises `FailedPrecondition` (`upstream_decides`)."""
        self.offered()
        line = self.lines().get(root.certificate) if root is not None else None
        if line is None:
            raise FailedPrecondition(
                Reason.UPSTREAM_DECIDES,
                f"nothing in the PKI engine at {self._engine.mount} signs under the root that is asked for",
                fix="let the rotation that takes another root go on",
            )
        return line

    def _judged(self, found: Found, roots: Collection[Authority]) -> Offer:
        return offer_of(
            found,
            mount=self._engine.mount,
            trust_domain=self._trust_domain,
            now=self._clock.now(),
            known=tuple(dict.fromkeys(root.certificate for root in roots)),
            trusted=_signing(roots),
        )


def _signing(roots: Collection[Authority]) -> Sequence[x509.Certificate]:
    return [root.certificate for root in roots if root.state is AuthorityState.ACTIVE]


def _denied(missing: Sequence[str]) -> Unavailable:
    """Known before it is asked for, when there is time left to mend it."""
    return Unavailable(
        Reason.VAULT_DENIED, f"Vault's policy does not allow {', '.join(missing)}", fix="add it to the policy"
    )


def not_yet() -> Unavailable:
    """What is said before the first look."""
    return Unavailable(Reason.UPSTREAM_UNAVAILABLE, "the PKI engine was not looked at yet")
