"""Keys that sign JWT-SVIDs, and when each half of the bundle changed last."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, and the columns of the bundle: until now only its X.509 authorities ever changed."""
    op.create_table(
        "jwt_authority",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.Column("signed_until", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jwt_authority")),
    )
    op.add_column("bundle", sa.Column("x509_sequence", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("bundle", sa.Column("jwt_sequence", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("bundle", sa.Column("jwt_digest", sa.String(length=64), nullable=False, server_default=""))
    op.execute("UPDATE bundle SET x509_sequence = sequence")


def downgrade() -> None:
    """Drop them."""
    for column in ("jwt_digest", "jwt_sequence", "x509_sequence"):
        op.drop_column("bundle", column)
    op.drop_table("jwt_authority")
