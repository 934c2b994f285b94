"""What the parent said last is to be trusted."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "parent_trust",
        sa.Column("trust_domain", sa.String(255), nullable=False),
        sa.Column("trust", sa.LargeBinary(), nullable=False),
        sa.Column("taken_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("trust_domain", name=op.f("pk_parent_trust")),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("parent_trust")
