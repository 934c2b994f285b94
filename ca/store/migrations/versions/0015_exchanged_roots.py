"""Roots of other clusters of the own trust domain."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "exchanged_root",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_exchanged_root")),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("exchanged_root")
