"""Where clients of signers have their roots from: what is signed for them holds none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ca.kubernetes.note import Note
from ca.kubernetes.settings import ClusterSettings

NO_ROOTS: Final = (
    "what the signer answers holds no roots, and no bundle is kept in this cluster: a rotation does not know "
    "whether its clients have a new root before it signs"
)
KEEP_THEM: Final = "set `bundles` too, and let clients read their roots there"


def root_notes(settings: ClusterSettings) -> Sequence[Note]:
    """What a person should know of a cluster with signers. No trouble: they may have them from elsewhere."""
    return [Note(f"{NO_ROOTS}; {KEEP_THEM}")] if settings.signs_without_roots else []
