"""Certificates that machines have from elsewhere (x509pop): which are trusted for joining, and what they say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from citadel.certification_path import UNREADABLE, NoPathError, extension_of, find_path, weakness_of
from citadel.errors import InvalidArgument, Reason, Unauthenticated
from citadel.possession import ProvenKey, provable
from citadel.selector import Selector
from citadel.serial import serial_hex

MAX_CHAIN: Final = 5  # certificates that are sent: bounds the work that a stranger can cause

_CLIENT_USES: Final = frozenset({ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCertificate:
    """A certificate that is trusted for joining. Whether its key is there is for a proof to show."""

    fingerprint: str  # SHA-256 of the DER, hex
    public_key: ProvenKey
    selectors: frozenset[Selector]


def trusted_for_joining(
    chain_der: Sequence[bytes], anchors: Sequence[x509.Certificate], *, now: datetime
) -> NodeCertificate:
    """Judge a chain (DER, leaf first) by the authorities in `anchors`, each of which is one, self-signed or not.

    The leaf must be no authority; where it has a key usage or extended key usage, these must allow it to prove itself
    as a client. So must the extended key usage of each intermediate. Revocation lists are not consulted.

    Raises `Unauthenticated` (`x509pop_refused`), saying why. Slow: call it off the loop.
    """
    if not 0 < len(chain_der) <= MAX_CHAIN:
        raise _refused(f"the chain has {len(chain_der)} certificates, and must have 1 to {MAX_CHAIN}")
    try:
        leaf, *others = (x509.load_der_x509_certificate(der) for der in chain_der)
        path = _path(leaf, others, anchors, now)
        _check_leaf(leaf)
        for depth, certificate in enumerate(path[:-1]):  # nobody relies on what the anchor says of itself
            _check_use_and_strength(certificate, _place(depth))
        return NodeCertificate(
            fingerprint=leaf.fingerprint(hashes.SHA256()).hex(),
            public_key=provable(leaf.public_key()),
            selectors=frozenset(_facts(leaf, path[1:])),
        )
    except InvalidArgument as error:  # its key
        raise _refused(error.message) from error
    except UNREADABLE as error:
        raise _refused("the chain holds a certificate that cannot be read") from error


def _path(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate], now: datetime
) -> list[x509.Certificate]:
    try:
        return find_path(leaf, others, anchors, now=now)
    except NoPathError as error:
        where = "" if error.depth is None else f"{_place(error.depth)}: "
        raise _refused(where + error.why) from error


def _check_leaf(leaf: x509.Certificate) -> None:
    constraints = extension_of(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise _refused("it is an authority's certificate, and not a machine's")
    usage = extension_of(leaf, x509.KeyUsage)
    if usage is not None and (usage.key_cert_sign or not usage.digital_signature):
        raise _refused("its key usage is not that of a key that signs for itself (digitalSignature)")


def _check_use_and_strength(certificate: x509.Certificate, which: str) -> None:
    uses = extension_of(certificate, x509.ExtendedKeyUsage)
    if uses is not None and _CLIENT_USES.isdisjoint(uses):
        raise _refused(f"{which} is not for clients (extended key usage clientAuth)")
    weakness = weakness_of(certificate, is_anchor=False)
    if weakness:
        raise _refused(f"{which} {weakness}")


def _facts(leaf: x509.Certificate, issuers: Sequence[x509.Certificate]) -> Iterator[Selector]:
    yield Selector("node", f"x509pop:fingerprint:{leaf.fingerprint(hashes.SHA256()).hex()}")
    yield Selector("node", f"x509pop:serialnumber:{serial_hex(leaf.serial_number)}")
    for issuer in issuers:
        yield Selector("node", f"x509pop:ca:fingerprint:{issuer.fingerprint(hashes.SHA256()).hex()}")
    for name in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        try:
            yield Selector("node", f"x509pop:subject:cn:{name.value!s}")
        except InvalidArgument:
            continue  # unprintable or endless: no entry could name it


def _place(depth: int) -> str:
    return "the certificate" if depth == 0 else f"certificate {depth} above it"


def _refused(why: str) -> Unauthenticated:
    return Unauthenticated(
        Reason.X509POP_REFUSED,
        f"the certificate is not trusted for joining: {why}",
        fix="compare its chain with the server's joining.x509pop.ca_file",
    )
