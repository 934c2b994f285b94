"""Which issuing authority another cluster is warned of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ca.api.trust_facts import trouble_of
from ca.authority.model import Authority, AuthorityKind, AuthorityState
from citadel.revocation import RevocationSet
from tests.certificates import NOW, Signed, intermediate, root
from tests.revocations import revocation_set

TOP = root()
SIGNED = intermediate(TOP)
SERIAL = SIGNED.certificate.serial_number


def authority(name: str, signed: Signed, kind: AuthorityKind, parent: str | None = None) -> Authority:
    return Authority(
        id=name,
        kind=kind,
        state=AuthorityState.ACTIVE,
        key_id=name,
        certificate=signed.certificate,
        parent_id=parent,
        created_at=NOW,
    )


ROOT = authority("root", TOP, AuthorityKind.ROOT)
ISSUER = authority("issuer", SIGNED, AuthorityKind.ISSUER, "root")


@pytest.mark.parametrize(
    ("root_state", "issuer_state", "revoked", "words"),
    [
        (AuthorityState.ACTIVE, AuthorityState.ACTIVE, RevocationSet(), ""),
        (AuthorityState.OLD, AuthorityState.ACTIVE, revocation_set(SIGNED, TOP), ""),
        (AuthorityState.TAINTED, AuthorityState.ACTIVE, RevocationSet(), "tainted"),
        (AuthorityState.ACTIVE, AuthorityState.TAINTED, RevocationSet(), "tainted"),
        (AuthorityState.ACTIVE, AuthorityState.ACTIVE, revocation_set(SIGNED, TOP, revoked=[SERIAL]), "revoked"),
        (AuthorityState.ACTIVE, AuthorityState.ACTIVE, revocation_set(SIGNED, TOP, revoked=[SERIAL + 1]), ""),
        (AuthorityState.ACTIVE, AuthorityState.ACTIVE, revocation_set(TOP, SIGNED, revoked=[SERIAL]), ""),
    ],
)
def test_an_issuing_authority_that_goes_is_told(
    root_state: AuthorityState, issuer_state: AuthorityState, revoked: RevocationSet, words: str
) -> None:
    issuer = replace(ISSUER, state=issuer_state)
    trouble = trouble_of(issuer, [replace(ROOT, state=root_state), issuer], revoked)
    assert (words in trouble, bool(trouble)) == (True, bool(words))
