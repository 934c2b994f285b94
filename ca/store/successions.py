"""Successions of roots, in SQL."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import delete, insert, select

from ca.store.database import Database
from ca.store.schema import successions
from citadel.spiffe import TrustDomain
from citadel.succession import Succession


class SqlSuccessions:
    """Fulfils `ca.authority.vouching.SuccessionStore`."""

    def __init__(self, *, database: Database, trust_domain: TrustDomain) -> None:
        self._database = database
        self._trust_domain = trust_domain

    async def load(self) -> Sequence[Succession]:
        async with self._database.transaction() as connection:
            return [
                Succession(
                    trust_domain=self._trust_domain,
                    signer=bytes(row.signer),
                    heirs=tuple(_certificate(text) for text in json.loads(row.heirs)),
                    until=row.until,
                    signature=bytes(row.signature),
                )
                for row in await connection.execute(select(successions).order_by(successions.c.until))
            ]

    async def keep(self, succession: Succession) -> None:
        values = {
            "signer": succession.signer,
            "heirs": json.dumps([_text(heir) for heir in succession.heirs]),
            "until": succession.until,
            "signature": succession.signature,
        }
        async with self._database.transaction() as connection:
            await connection.execute(delete(successions).where(successions.c.signer == succession.signer))
            await connection.execute(insert(successions).values(values))

    async def forget(self, signers: Sequence[bytes]) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(delete(successions).where(successions.c.signer.in_(signers)))


def _text(certificate: x509.Certificate) -> str:
    return base64.b64encode(certificate.public_bytes(Encoding.DER)).decode("ascii")


def _certificate(text: str) -> x509.Certificate:
    return x509.load_der_x509_certificate(base64.b64decode(text))
