"""What stands between an issuing authority and its root."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column: until now every issuing authority was signed by its root."""
    op.add_column("authority", sa.Column("chain", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("authority", "chain")
