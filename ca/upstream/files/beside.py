"""What is good by itself, and would break what is in force (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ca.authority.certificates import subject_key_id
from ca.authority.model import Authority
from ca.upstream.files.folder import invalid
from ca.upstream.files.offer import Offer
from ca.upstream.lineage import named, namesakes, public_key_of


def check_beside(
    offer: Offer, roots: Sequence[Authority], issuers: Sequence[Authority], *, folder: Path, may_keep_key: bool
) -> None:
    """Refuse an offer that cannot come into force beside these. Raises `FailedPrecondition` (`upstream_invalid`).

    With `may_keep_key` it may have the key of an authority under the same root.
    """
    if twins := namesakes((*(root.certificate for root in roots), *offer.roots)):
        raise invalid(
            folder,
            f"lists {named(twins[0])}, and a root of this name with another key is in force",
            fix="Envoy looks authorities up by name: make the new root with a name of its own",
        )
    key, key_id = public_key_of(offer.certificate), subject_key_id(offer.certificate)
    root_by_id = {root.id: root.certificate for root in roots}
    for issuer in issuers:
        has_its_key = public_key_of(issuer.certificate) == key
        if issuer.subject_key_id == key_id and not has_its_key:
            raise invalid(folder, "holds an authority with the key identifier of another one that is in force")
        if not has_its_key or issuer.certificate == offer.certificate:
            continue
        # Leaves name their authority by its key: which of them hang on the old root could not be told, nor which list
        # says that they are revoked.
        if not may_keep_key or root_by_id.get(issuer.parent_id or "") != offer.root:
            where = " under another root" if may_keep_key else ""
            raise invalid(
                folder, f"holds an authority{where} with the key of one that is in force", fix="make a new key for it"
            )
