"""Schedules and their entries: what beats keep in the store."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "workmanager_schedule",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("holder", sa.String(length=155), nullable=True),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "workmanager_entry",
        sa.Column("schedule", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("is_work", sa.SmallInteger(), nullable=False),
        sa.Column("last_run_at", sa.BigInteger(), nullable=False),
        sa.Column("total_run_count", sa.BigInteger(), nullable=False),
        sa.Column("firing_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("schedule", "name"),
    )


def downgrade() -> None:
    """Drop the tables; ordinary entries begin anew."""
    op.drop_table("workmanager_entry")
    op.drop_table("workmanager_schedule")
