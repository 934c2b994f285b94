"""The audit log, and the hash chains of the ledger and of the audit log with their checkpoints."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables, and the columns of the ledger; its rows of before stay without a hash."""
    _make_audit()
    _make_chain()
    with op.batch_alter_table("ledger", schema=None) as batch_op:
        batch_op.add_column(sa.Column("writer", sa.String(length=32), nullable=True))
        batch_op.add_column(sa.Column("position", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("hash", sa.LargeBinary(), nullable=True))
        batch_op.drop_index("ix_ledger_spiffe_id")
    with op.batch_alter_table("ledger", schema=None) as batch_op:
        batch_op.create_index("ix_ledger_spiffe_id", ["spiffe_id", "issued_at"], unique=False)
        batch_op.create_index("ix_ledger_requested_by", ["requested_by", "issued_at"], unique=False)
        batch_op.create_index("ix_ledger_issued_at", ["issued_at"], unique=False)
        batch_op.create_index("ix_ledger_writer", ["writer", "position"], unique=True)


def _make_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("number", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor_kind", sa.String(length=16), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("what", sa.String(length=64), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("writer", sa.String(length=32), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.create_index("ix_audit_at", ["at"], unique=False)
        batch_op.create_index("ix_audit_actor", ["actor", "at"], unique=False)
        batch_op.create_index("ix_audit_what", ["what", "at"], unique=False)
        batch_op.create_index("ix_audit_target", ["target", "at"], unique=False)
        batch_op.create_index("ix_audit_writer", ["writer", "position"], unique=True)


def _make_chain() -> None:
    op.create_table(
        "segment",
        sa.Column("number", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("log", sa.String(length=16), nullable=False),
        sa.Column("writer", sa.String(length=32), nullable=False),
        sa.Column("begun_at", sa.BigInteger(), nullable=False),
        sa.Column("after_writer", sa.String(length=32), nullable=False),
        sa.Column("after_position", sa.BigInteger(), nullable=False),
        sa.Column("after_hash", sa.LargeBinary(), nullable=False),
        sa.Column("unchained", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_segment")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("segment", schema=None) as batch_op:
        batch_op.create_index("ix_segment_log", ["log", "writer"], unique=True)
    op.create_table(
        "checkpoint",
        sa.Column("number", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("log", sa.String(length=16), nullable=False),
        sa.Column("writer", sa.String(length=32), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("jws", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_checkpoint")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("checkpoint", schema=None) as batch_op:
        batch_op.create_index("ix_checkpoint_log", ["log", "writer", "position"], unique=False)
    op.create_table(
        "record_key",
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_record_key")),
    )


def downgrade() -> None:
    """Drop the tables and the columns."""
    with op.batch_alter_table("ledger", schema=None) as batch_op:
        for index in ("ix_ledger_writer", "ix_ledger_issued_at", "ix_ledger_requested_by", "ix_ledger_spiffe_id"):
            batch_op.drop_index(index)
    with op.batch_alter_table("ledger", schema=None, table_kwargs={"sqlite_autoincrement": True}) as batch_op:
        for column in ("hash", "position", "writer"):
            batch_op.drop_column(column)
        batch_op.create_index("ix_ledger_spiffe_id", ["spiffe_id", "number"], unique=False)
    for table in ("record_key", "checkpoint", "segment", "audit"):
        op.drop_table(table)
