"""The tables. Migrations in `ca/store/migrations` make them; a test checks that both say the same."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, Index, LargeBinary, MetaData, String, Table, Text

from ca.store.types import Moment, RowNumber, Span
from citadel.spiffe import MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES

# Names for constraints, so that migrations can change them on every database.
metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_ID: Final = String(MAX_ID_BYTES)
_DIGEST: Final = String(64)

authorities: Final = Table(
    "authority",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("certificate", LargeBinary, nullable=False),
    Column("parent_id", String(32)),
    Column("created_at", Moment, nullable=False),
)

bundles: Final = Table(
    "bundle",
    metadata,
    Column("trust_domain", String(MAX_TRUST_DOMAIN_BYTES), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("digest", _DIGEST, nullable=False),
)

entries: Final = Table(
    "entry",
    metadata,
    Column("id", String(36), primary_key=True),
    # SHA-256 over identity, parent and selectors: what may exist once.
    Column("identity", _DIGEST, nullable=False, unique=True),
    Column("spiffe_id", _ID, nullable=False, index=True),
    Column("parent_id", _ID, nullable=False, index=True),
    Column("selectors", Text, nullable=False),
    Column("x509_svid_ttl", Span),
    Column("jwt_svid_ttl", Span),
    Column("dns_names", Text, nullable=False),
    Column("federates_with", Text, nullable=False),
    Column("hint", Text, nullable=False),
    Column("expires_at", Moment),
    Column("admin", Boolean, nullable=False),
    Column("downstream", Boolean, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("created_at", Moment, nullable=False),
)

# Every change of entries, in order; the highest number is the revision of the directory.
events: Final = Table(
    "event",
    metadata,
    Column("revision", RowNumber, primary_key=True, autoincrement=True),
    Column("kind", String(32), nullable=False),
    Column("subject", String(64), nullable=False),
    sqlite_autoincrement=True,
)

agents: Final = Table(
    "agent",
    metadata,
    Column("spiffe_id", _ID, primary_key=True),
    Column("key", _DIGEST, nullable=False),
    Column("next_key", _DIGEST),
    Column("selectors", Text, nullable=False),
    Column("banned", Boolean, nullable=False),
    Column("joined_at", Moment, nullable=False),
)

tokens: Final = Table(
    "join_token",
    metadata,
    Column("digest", _DIGEST, primary_key=True),
    Column("agent_id", _ID, nullable=False),
    Column("selectors", Text, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("used_at", Moment),
)

ledger: Final = Table(
    "ledger",
    metadata,
    Column("number", RowNumber, primary_key=True, autoincrement=True),
    Column("serial", String(40), nullable=False, unique=True),
    Column("spiffe_id", _ID, nullable=False),
    Column("entry_id", String(36), nullable=False),
    Column("requested_by", _ID, nullable=False),
    Column("issuer_id", String(32), nullable=False),
    Column("public_key", _DIGEST, nullable=False),
    Column("not_before", Moment, nullable=False),
    Column("not_after", Moment, nullable=False),
    Column("issued_at", Moment, nullable=False),
    Column("limited_by", String(16), nullable=False),
    sqlite_autoincrement=True,
)

Index("ix_ledger_spiffe_id", ledger.c.spiffe_id, ledger.c.number)

audit: Final = Table(
    "audit",
    metadata,
    Column("number", RowNumber, primary_key=True, autoincrement=True),
    Column("at", Moment, nullable=False),
    Column("actor_kind", String(16), nullable=False),
    Column("actor", Text, nullable=False),
    Column("what", String(64), nullable=False),
    Column("target", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("reason", String(64), nullable=False),
    Column("count", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)
