"""What a rotation that begins now would find to sign with."""

from __future__ import annotations

from ca.authority.issuers import Issuers
from ca.authority.model import AuthorityKind, AuthorityState
from ca.authority.ports import Pending, UpstreamAuthority


class Prospects:
    """Who rotates asks this first, so that nothing is begun that cannot go on. It changes nothing."""

    def __init__(self, *, upstream: UpstreamAuthority, issuers: Issuers) -> None:
        self._upstream = upstream
        self._issuers = issuers

    def pending(self) -> Pending | None:
        """What the upstream has put up, and a rotation is to take; not what signs, or did a moment ago."""
        pending = self._upstream.pending()
        if pending is None or any(
            each.certificate == pending.certificate and each.state is not AuthorityState.PREPARED
            for each in self._issuers.on_record()
        ):
            return None
        return pending

    def can_replace(self) -> bool:
        """Whether there would be an issuing authority now, if one were to take the place of the one that signs."""
        return self._issuers.longer_at_hand() is not None or self.can_mint()

    def can_mint(self) -> bool:
        """Whether a rotation that begins now would have an issuing authority to prepare."""
        if AuthorityKind.ISSUER not in self.upstream_decides:
            return self._upstream.can_mint()
        pending = self.pending()
        return self._issuers.prepared() is not None or (pending is not None and not pending.is_root)

    def can_make_root(self) -> bool:
        """Whether there would be a new root, if its time had come."""
        return self._upstream.can_make_root()

    @property
    def root_cannot_sign(self) -> bool:
        """Whether no issuing authority comes from the active root ever again: its key is elsewhere, or it has ended."""
        return bool(self._upstream.cannot_sign())

    @property
    def upstream_decides(self) -> frozenset[AuthorityKind]:
        """What is rotated when the upstream has put something up, and only then."""
        return self._upstream.decides

    @property
    def upstream_advice(self) -> str:
        """What a person does there who wants that rotated."""
        return self._upstream.advice
