"""What extensions an authority may have, and in which form, so that every program of a mesh can read them.

The rules are those of Go's crypto/x509, the strictest of all: it looks into more of them than others do, and refuses
the whole certificate for what it cannot read in one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

# Extensions under these are the standards', and programs look into them; into all others nobody does but their makers.
_STANDARD: Final = ("2.5.29.", "1.3.6.1.5.5.7.1.")
_TAKEN: Final = frozenset(
    {
        ExtensionOID.AUTHORITY_INFORMATION_ACCESS,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.FRESHEST_CRL,
        ExtensionOID.INHIBIT_ANY_POLICY,
        ExtensionOID.ISSUER_ALTERNATIVE_NAME,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.POLICY_CONSTRAINTS,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.SUBJECT_INFORMATION_ACCESS,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.TLS_FEATURE,
        x509.ObjectIdentifier("2.5.29.16"),  # the period in which the key is used
        x509.ObjectIdentifier("1.3.6.1.5.5.7.1.3"),  # statements on qualified certificates
    }
)
_NEVER_CRITICAL: Final = frozenset(
    {
        ExtensionOID.AUTHORITY_INFORMATION_ACCESS,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    }
)
_MOST_NUMBER: Final = 2**31 - 1
_MOST_ARC: Final = _MOST_NUMBER - 80  # the first two numbers of an identifier are one in it
_LABELS: Final = r"[!-,/-9;-~-]+(\.[!-,/-9;-~-]+)*"
_CONSTRAINT: Final = re.compile(rf"(\.?{_LABELS})?")
_MAILBOX: Final = re.compile(r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_HOST: Final = r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(:[0-9]{1,5})?"
_REST: Final = r"([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*"
_URI: Final = re.compile(rf"[A-Za-z][A-Za-z0-9+.-]*:(//{_HOST}([/?]{_REST})?|[A-Za-z0-9]{_REST})")


def problems_of(extension: x509.Extension[x509.ExtensionType]) -> Iterator[str]:
    """Why some program cannot read this."""
    oid = extension.oid
    yield from long_identifiers(oid)
    if oid.dotted_string.startswith(_STANDARD) and oid not in _TAKEN:
        yield f"it has the extension {oid.dotted_string}, which is none of an authority that signs SVIDs"
    if extension.critical and oid in _NEVER_CRITICAL:
        yield f"its extension {oid.dotted_string} is marked as critical, which Go refuses"
    if max(_numbers(extension.value), default=0) > _MOST_NUMBER:
        yield f"its extension {oid.dotted_string} has a number that not all can read"
    yield from _of_content(extension.value)


def _of_content(value: x509.ExtensionType) -> Iterator[str]:
    match value:
        case x509.SubjectAlternativeName() as names:
            yield from _of_names(names)
        case x509.NameConstraints() as constraints:
            both = (*(constraints.permitted_subtrees or ()), *(constraints.excluded_subtrees or ()))
            if not all(map(_is_constraint_for_all, both)):
                yield "it has a name constraint that not all can read"
        case x509.CertificatePolicies() as policies:
            named = [each.policy_identifier for each in policies]
            if len(set(named)) < len(named):
                yield "it names a policy twice"
        case x509.ExtendedKeyUsage() as usages:
            yield from long_identifiers(*usages)
        case x509.AuthorityInformationAccess() as places:
            yield from long_identifiers(*(each.access_method for each in places))
        case _:
            pass


def long_identifiers(*identifiers: x509.ObjectIdentifier) -> Iterator[str]:
    """Each that has a number which not all can read."""
    for each in identifiers:
        if any(int(arc) > _MOST_ARC for arc in each.dotted_string.split(".")):
            yield f"it has the identifier {each.dotted_string}, with a number that not all can read"


def _of_names(names: x509.SubjectAlternativeName) -> Iterator[str]:
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
        if not _URI.fullmatch(uri):
            yield "it has an alternative name that is no URI for all"
    for address in names.get_values_for_type(x509.IPAddress):
        if not isinstance(address, IPv4Address | IPv6Address):
            yield "it has an alternative name that is no IP address"


def _numbers(value: x509.ExtensionType) -> Iterator[int]:
    match value:
        case x509.BasicConstraints():
            yield value.path_length or 0
        case x509.InhibitAnyPolicy():
            yield value.skip_certs
        case x509.PolicyConstraints():
            yield value.require_explicit_policy or 0
            yield value.inhibit_policy_mapping or 0
        case _:
            pass


def _is_constraint_for_all(name: x509.GeneralName) -> bool:
    match name:
        case x509.DNSName(value=host):
            return bool(_CONSTRAINT.fullmatch(host))
        case x509.UniformResourceIdentifier(value=host):
            return bool(_CONSTRAINT.fullmatch(host)) and not _is_address(host)
        case x509.RFC822Name(value=mailbox):
            return bool((_MAILBOX if "@" in mailbox else _CONSTRAINT).fullmatch(mailbox))
        case _:
            return True


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
