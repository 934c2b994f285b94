"""What was signed for child clusters, and what they said."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "downstream_authority",
        sa.Column("serial", sa.String(length=40), nullable=False),
        sa.Column("child", sa.String(length=2048), nullable=False),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        sa.Column("root_key_id", sa.LargeBinary(), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.Column("signed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_downstream_authority")),
    )
    op.create_table(
        "downstream_report",
        sa.Column("child", sa.String(length=2048), nullable=False),
        sa.Column("report", sa.LargeBinary(), nullable=False),
        sa.Column("said_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("child", name=op.f("pk_downstream_report")),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("downstream_report")
    op.drop_table("downstream_authority")
