"""Federations, and the bundles of foreign trust domains."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "federation",
        sa.Column("trust_domain", sa.String(length=255), nullable=False),
        sa.Column("endpoint_url", sa.Text(), nullable=False),
        sa.Column("profile", sa.String(length=16), nullable=False),
        sa.Column("endpoint_id", sa.String(length=2048), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("refreshed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("trust_domain", name=op.f("pk_federation")),
    )
    op.create_table(
        "foreign_bundle",
        sa.Column("trust_domain", sa.String(length=255), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("trust_domain", name=op.f("pk_foreign_bundle")),
    )


def downgrade() -> None:
    """Drop both."""
    op.drop_table("foreign_bundle")
    op.drop_table("federation")
