"""The lease: which server owns the store."""

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""


def downgrade() -> None:
    """Drop the table."""
