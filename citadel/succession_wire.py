"""Successions of roots on the wire."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from citadel._wire import bootstrap_pb2 as pb
from citadel.certification_path import UNREADABLE
from citadel.errors import CitadelError
from citadel.spiffe import TrustDomain
from citadel.succession import Succession
from citadel.wire import from_timestamp, to_timestamp

_MOST: Final = 64  # successions that are looked at, and heirs of each: bounds the work that a stranger can cause


def succession_to_wire(succession: Succession) -> pb.Succession:
    """As it is sent."""
    return pb.Succession(
        signer=succession.signer,
        heirs=[heir.public_bytes(Encoding.DER) for heir in succession.heirs],
        until=to_timestamp(succession.until),
        signature=succession.signature,
    )


def successions_from_wire(trust_domain: TrustDomain, messages: Iterable[pb.Succession]) -> Iterator[Succession]:
    """The first of those that can be read; what cannot takes nothing from the others. None is verified yet."""
    for message in list(messages)[:_MOST]:
        try:
            yield Succession(
                trust_domain=trust_domain,
                signer=message.signer,
                heirs=tuple(map(x509.load_der_x509_certificate, message.heirs[:_MOST])),
                until=from_timestamp(message.until),
                signature=message.signature,
            )
        except (CitadelError, *UNREADABLE):
            continue
