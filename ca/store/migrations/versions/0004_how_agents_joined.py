"""How agents joined, why they are banned, and when they were last seen."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns. Whoever is there already joined with a token, and was never banned with a reason."""
    op.add_column("agent", sa.Column("joined_by", sa.String(length=16), server_default="token", nullable=False))
    op.add_column("agent", sa.Column("ban_reason", sa.Text(), server_default="", nullable=False))
    op.add_column("agent", sa.Column("last_seen", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Drop the columns."""
    op.drop_column("agent", "last_seen")
    op.drop_column("agent", "ban_reason")
    op.drop_column("agent", "joined_by")
