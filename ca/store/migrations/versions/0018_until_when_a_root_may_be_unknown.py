"""Until when clients that ask by themselves may not know a published root."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "published_root",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("unknown_until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_published_root")),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("published_root")
