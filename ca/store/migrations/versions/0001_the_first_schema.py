"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "agent",
        sa.Column("spiffe_id", sa.String(length=2048), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("next_key", sa.String(length=64), nullable=True),
        sa.Column("selectors", sa.Text(), nullable=False),
        sa.Column("banned", sa.Boolean(), nullable=False),
        sa.Column("joined_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("spiffe_id", name=op.f("pk_agent")),
    )
    op.create_table(
        "authority",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        sa.Column("parent_id", sa.String(length=32), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_authority")),
    )
    op.create_table(
        "bundle",
        sa.Column("trust_domain", sa.String(length=255), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("trust_domain", name=op.f("pk_bundle")),
    )
    op.create_table(
        "entry",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("identity", sa.String(length=64), nullable=False),
        sa.Column("spiffe_id", sa.String(length=2048), nullable=False),
        sa.Column("parent_id", sa.String(length=2048), nullable=False),
        sa.Column("selectors", sa.Text(), nullable=False),
        sa.Column("x509_svid_ttl", sa.BigInteger(), nullable=True),
        sa.Column("jwt_svid_ttl", sa.BigInteger(), nullable=True),
        sa.Column("dns_names", sa.Text(), nullable=False),
        sa.Column("federates_with", sa.Text(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("admin", sa.Boolean(), nullable=False),
        sa.Column("downstream", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_entry")),
        sa.UniqueConstraint("identity", name=op.f("uq_entry_identity")),
    )
    with op.batch_alter_table("entry", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_entry_parent_id"), ["parent_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_entry_spiffe_id"), ["spiffe_id"], unique=False)

    op.create_table(
        "event",
        sa.Column("revision", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_event")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "join_token",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("agent_id", sa.String(length=2048), nullable=False),
        sa.Column("selectors", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_join_token")),
    )
    op.create_table(
        "ledger",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("serial", sa.String(length=40), nullable=False),
        sa.Column("spiffe_id", sa.String(length=2048), nullable=False),
        sa.Column("entry_id", sa.String(length=36), nullable=False),
        sa.Column("requested_by", sa.String(length=2048), nullable=False),
        sa.Column("issuer_id", sa.String(length=32), nullable=False),
        sa.Column("public_key", sa.String(length=64), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.Column("issued_at", sa.BigInteger(), nullable=False),
        sa.Column("limited_by", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_ledger")),
        sa.UniqueConstraint("serial", name=op.f("uq_ledger_serial")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("ledger", schema=None) as batch_op:
        batch_op.create_index("ix_ledger_spiffe_id", ["spiffe_id", "number"], unique=False)


def downgrade() -> None:
    """Drop the tables."""
    with op.batch_alter_table("ledger", schema=None) as batch_op:
        batch_op.drop_index("ix_ledger_spiffe_id")

    op.drop_table("ledger")
    op.drop_table("join_token")
    op.drop_table("event")
    with op.batch_alter_table("entry", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_entry_spiffe_id"))
        batch_op.drop_index(batch_op.f("ix_entry_parent_id"))

    op.drop_table("entry")
    op.drop_table("bundle")
    op.drop_table("authority")
    op.drop_table("agent")
