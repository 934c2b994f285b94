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
_WRITER: Final = String(32)

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
    Column("chain", LargeBinary),  # PEM of what stands between it and its root
    Column("was_tainted", Boolean),  # stays when it is gone; null is no
)

jwt_authorities: Final = Table(
    "jwt_authority",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("not_before", Moment, nullable=False),
    Column("not_after", Moment, nullable=False),
    # No token that it signed ends later.
    Column("signed_until", Moment),
)

bundles: Final = Table(
    "bundle",
    metadata,
    Column("trust_domain", String(MAX_TRUST_DOMAIN_BYTES), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("digest", _DIGEST, nullable=False),  # of the X.509 authorities
    # What the sequence was when this half of the bundle changed last.
    Column("x509_sequence", BigInteger, nullable=False, server_default="0"),
    Column("jwt_sequence", BigInteger, nullable=False, server_default="0"),
    Column("jwt_digest", _DIGEST, nullable=False, server_default=""),
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
    Column("origin", Text, nullable=False, server_default=""),
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
    Column("joined_by", String(16), nullable=False, server_default="token"),
    Column("ban_reason", Text, nullable=False, server_default=""),
    Column("last_seen", Moment),
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
    # Not set in rows from before there was a chain.
    Column("writer", _WRITER),
    Column("position", BigInteger),
    Column("hash", LargeBinary),
    sqlite_autoincrement=True,
)

# Each index costs every certificate. What is not listed here, such as the entry, is looked for along the time.
Index("ix_ledger_spiffe_id", ledger.c.spiffe_id, ledger.c.issued_at)
Index("ix_ledger_requested_by", ledger.c.requested_by, ledger.c.issued_at)
Index("ix_ledger_issued_at", ledger.c.issued_at)
Index("ix_ledger_writer", ledger.c.writer, ledger.c.position, unique=True)

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
    Column("writer", _WRITER, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)

Index("ix_audit_at", audit.c.at)
Index("ix_audit_actor", audit.c.actor, audit.c.at)
Index("ix_audit_what", audit.c.what, audit.c.at)
Index("ix_audit_target", audit.c.target, audit.c.at)
Index("ix_audit_writer", audit.c.writer, audit.c.position, unique=True)

# The segments of the two chains, see `ca.ledger.chain`.
segments: Final = Table(
    "segment",
    metadata,
    Column("number", RowNumber, primary_key=True, autoincrement=True),
    Column("log", String(16), nullable=False),
    Column("writer", _WRITER, nullable=False),
    Column("begun_at", Moment, nullable=False),
    Column("after_writer", _WRITER, nullable=False),
    Column("after_position", BigInteger, nullable=False),
    Column("after_hash", LargeBinary, nullable=False),
    Column("unchained", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

Index("ix_segment_log", segments.c.log, segments.c.writer, unique=True)

# What was signed of the chains: checkpoints, and the anchors that pruning leaves.
checkpoints: Final = Table(
    "checkpoint",
    metadata,
    Column("number", RowNumber, primary_key=True, autoincrement=True),
    Column("log", String(16), nullable=False),
    Column("writer", _WRITER, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("jws", Text, nullable=False),
    sqlite_autoincrement=True,
)

Index("ix_checkpoint_log", checkpoints.c.log, checkpoints.c.writer, checkpoints.c.position)

record_keys: Final = Table(
    "record_key",
    metadata,
    Column("fingerprint", _DIGEST, primary_key=True),
    Column("key_id", String(64), nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("created_at", Moment, nullable=False),
)

rotations: Final = Table(
    "rotation",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("phase_since", Moment, nullable=False),
    Column("ended_at", Moment),
    Column("started_by", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("new_id", String(32), nullable=False),
    Column("old_ids", Text, nullable=False),
    Column("spiffe_id", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("renew_window", Span, nullable=False),
    Column("margin", Span, nullable=False),
    Column("deadline", Moment),
    Column("paused", Boolean, nullable=False),
    Column("skipped", Text, nullable=False),
    Column("alarm", Text, nullable=False),
)

Index("ix_rotation_started_at", rotations.c.started_at)

revocations: Final = Table(
    "revocation",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("target", _ID, nullable=False),
    Column("reason", Text, nullable=False),
    Column("code", String(32), nullable=False),
    Column("revoked_at", Moment, nullable=False),
    Column("revoked_by", Text, nullable=False),
    Column("entry_id", String(36), nullable=False),
    Column("agent", _ID, nullable=False),
    Column("certificates", BigInteger, nullable=False),
    Column("completed_at", Moment),
    Column("lifted_at", Moment),
)

Index("ix_revocation_revoked_at", revocations.c.revoked_at)

revoked_certificates: Final = Table(
    "revoked_certificate",
    metadata,
    Column("serial", String(40), primary_key=True),
    Column("issuer_id", String(32), nullable=False),
    Column("revocation_id", String(32), nullable=False, index=True),
    Column("not_after", Moment, nullable=False, index=True),
    Column("revoked_at", Moment, nullable=False),
    Column("code", String(32), nullable=False),
)

# The newest signed list of each authority.
revocation_lists: Final = Table(
    "revocation_list",
    metadata,
    Column("authority_id", String(32), primary_key=True),
    Column("crl", LargeBinary, nullable=False),
)

# What roots that are gone said of those after them, see `citadel.succession`.
successions: Final = Table(
    "succession",
    metadata,
    Column("signer", LargeBinary, primary_key=True),
    Column("heirs", Text, nullable=False),
    Column("until", Moment, nullable=False),
    Column("signature", LargeBinary, nullable=False),
)

# Where the bundles of foreign trust domains are fetched.
federations: Final = Table(
    "federation",
    metadata,
    Column("trust_domain", String(MAX_TRUST_DOMAIN_BYTES), primary_key=True),
    Column("endpoint_url", Text, nullable=False),
    Column("profile", String(16), nullable=False),
    Column("endpoint_id", _ID, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("refreshed_at", Moment),
)

# The foreign bundles in force, as SPIFFE documents, whose sequences may be longer than numbers here.
foreign_bundles: Final = Table(
    "foreign_bundle",
    metadata,
    Column("trust_domain", String(MAX_TRUST_DOMAIN_BYTES), primary_key=True),
    Column("document", LargeBinary, nullable=False),
    Column("source", String(16), nullable=False),
    Column("updated_at", Moment, nullable=False),
)

# Roots of other clusters of the own trust domain, which a person exchanged.
exchanged_roots: Final = Table(
    "exchanged_root",
    metadata,
    Column("digest", _DIGEST, primary_key=True),
    Column("certificate", LargeBinary, nullable=False),
)

# Roots in the own bundle: until when clients that ask by themselves may not know them.
published_roots: Final = Table(
    "published_root",
    metadata,
    Column("digest", _DIGEST, primary_key=True),
    Column("unknown_until", Moment, nullable=False),
)

# Issuing authorities that were signed for child clusters.
downstream_authorities: Final = Table(
    "downstream_authority",
    metadata,
    Column("serial", String(40), primary_key=True),
    Column("child", _ID, nullable=False),
    Column("certificate", LargeBinary, nullable=False),
    Column("root_key_id", LargeBinary, nullable=False),
    Column("not_after", Moment, nullable=False),
    Column("signed_at", Moment, nullable=False),
)

# What each child said last of its authorities and keys, as far as it was believed.
downstream_reports: Final = Table(
    "downstream_report",
    metadata,
    Column("child", _ID, primary_key=True),
    Column("report", LargeBinary, nullable=False),
    Column("said_at", Moment, nullable=False),
)

# At most one row: what the parent said last is to be trusted, as it came.
parent_trust: Final = Table(
    "parent_trust",
    metadata,
    Column("trust_domain", String(MAX_TRUST_DOMAIN_BYTES), primary_key=True),
    Column("trust", LargeBinary, nullable=False),
    Column("taken_at", Moment, nullable=False),
)

# At most one row: which server owns the store.
lease: Final = Table(
    "lease",
    metadata,
    Column("name", String(16), primary_key=True),
    Column("holder_id", String(32), nullable=False),
    Column("holder_name", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("duration", Span, nullable=False),
)

# Private keys of authorities, sealed before they come here.
sealed_keys: Final = Table(
    "sealed_key",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)

# Each return to a backup: between these two moments the ledger has a gap.
restores: Final = Table(
    "restore",
    metadata,
    Column("number", RowNumber, primary_key=True, autoincrement=True),
    Column("made_at", Moment, nullable=False),
    Column("restored_at", Moment, nullable=False),
    Column("digest", _DIGEST, nullable=False),
    sqlite_autoincrement=True,
)
