"""Revocations, the certificates that they took back, and the lists that say so."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "revocation",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("target", sa.String(length=2048), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("code", sa.String(length=32), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_by", sa.Text(), nullable=False),
        sa.Column("entry_id", sa.String(length=36), nullable=False),
        sa.Column("agent", sa.String(length=2048), nullable=False),
        sa.Column("certificates", sa.BigInteger(), nullable=False),
        sa.Column("completed_at", sa.BigInteger(), nullable=True),
        sa.Column("lifted_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_revocation")),
    )
    op.create_index("ix_revocation_revoked_at", "revocation", ["revoked_at"])
    op.create_table(
        "revoked_certificate",
        sa.Column("serial", sa.String(length=40), nullable=False),
        sa.Column("issuer_id", sa.String(length=32), nullable=False),
        sa.Column("revocation_id", sa.String(length=32), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=False),
        sa.Column("code", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_revoked_certificate")),
    )
    op.create_index(op.f("ix_revoked_certificate_revocation_id"), "revoked_certificate", ["revocation_id"])
    op.create_index(op.f("ix_revoked_certificate_not_after"), "revoked_certificate", ["not_after"])
    op.create_table(
        "revocation_list",
        sa.Column("authority_id", sa.String(length=32), nullable=False),
        sa.Column("crl", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("authority_id", name=op.f("pk_revocation_list")),
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("revocation_list")
    op.drop_index(op.f("ix_revoked_certificate_not_after"), table_name="revoked_certificate")
    op.drop_index(op.f("ix_revoked_certificate_revocation_id"), table_name="revoked_certificate")
    op.drop_table("revoked_certificate")
    op.drop_index("ix_revocation_revoked_at", table_name="revocation")
    op.drop_table("revocation")
