"""What leads from an issuing authority to a root, and which roots may stand beside each other in one bundle (pure)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ca.authority.soundness import authority_faults
from citadel.certification_path import NoPathError, find_path

MOST_BETWEEN: Final = 8  # between an issuing authority and its root: every workload shows all of them to every peer
MOST_ROOTS: Final = 64  # they are pushed to every proxy
ONE_NAME_EACH: Final = "Envoy looks authorities up by name: make roots with a name of their own, as citadel-cli does"


class NoLineageError(Exception):
    """It leads to none of the roots; the text says why, where that is known."""


class FaultyLineageError(Exception):
    """It leads to a root, and peers should not go that way; the text says why, as `stands too far below`."""


def lineage(
    certificate: x509.Certificate,
    others: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    *,
    now: datetime,
    trusted: Collection[x509.Certificate] = (),
) -> tuple[tuple[x509.Certificate, ...], x509.Certificate]:
    """What stands between the certificate and its root, and that root; one that is `trusted` where there are several.

    Raises `NoLineageError` or `FaultyLineageError`.
    """
    why = ""
    for root in sorted(roots, key=lambda each: each not in trusted):
        try:
            _, *between, _ = find_path(certificate, others, [root], now=now)
        except NoPathError as error:
            why = why or error.why
            continue
        except ValueError:  # it is the root itself: no path of two
            continue
        if len(between) > MOST_BETWEEN:
            raise FaultyLineageError(f"stands more than {MOST_BETWEEN} below its root")
        for each in between:
            for fault in authority_faults(each, now=now):
                raise FaultyLineageError(f"has {named(each)} between itself and its root, which {fault}")
        return tuple(between), root
    raise NoLineageError(why)


def namesakes(roots: Collection[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    """Roots among these that have the name of another one before them, and another key."""
    keys: dict[x509.Name, bytes] = {}
    return tuple(root for root in roots if keys.setdefault(root.subject, public_key_of(root)) != public_key_of(root))


def public_key_of(certificate: x509.Certificate) -> bytes:
    """Its key, to be compared."""
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def named(certificate: x509.Certificate) -> str:
    """A certificate, for people."""
    return f"the certificate of {certificate.subject.rfc4514_string() or 'nobody'}"
