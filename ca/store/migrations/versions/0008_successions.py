"""What roots that are gone said of their heirs."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "succession",
        sa.Column("signer", sa.LargeBinary(), nullable=False),
        sa.Column("heirs", sa.Text(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("signer", name=op.f("pk_succession")),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("succession")
