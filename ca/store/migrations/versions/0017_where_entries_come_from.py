"""What the server made an entry from by itself, such as a pod."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. What was there before was registered by people."""
    op.add_column("entry", sa.Column("origin", sa.Text(), nullable=False, server_default=""))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("entry", "origin")
