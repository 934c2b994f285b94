"""Which authorities were tainted, also after they have gone."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. What was tainted and has gone before this cannot be told from what went in peace."""
    op.add_column("authority", sa.Column("was_tainted", sa.Boolean(), nullable=True))
    authority = sa.table("authority", sa.column("state", sa.String()), sa.column("was_tainted", sa.Boolean()))
    op.execute(authority.update().where(authority.c.state == "tainted").values(was_tainted=True))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("authority", "was_tainted")
