"""Pauses: what is paused, and the works that are held because of their tags and unique names."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from celery_workmanager.migrations import small_index_columns

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, the column and its index."""
    op.create_table(
        "workmanager_pause",
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("label", sa.String(length=255), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("phase", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "label"),
    )
    op.add_column("workmanager_work", sa.Column("held", sa.SmallInteger(), nullable=True))
    op.create_index(
        "workmanager_work_held",
        "workmanager_work",
        small_index_columns(op.get_bind().dialect.name, "held", "id"),
        unique=False,
        postgresql_where=sa.text("held IS NOT NULL"),
        sqlite_where=sa.text("held IS NOT NULL"),
    )


def downgrade() -> None:
    """Forget all pauses."""
    op.drop_index("workmanager_work_held", "workmanager_work")
    op.drop_column("workmanager_work", "held")
    op.drop_table("workmanager_pause")
