"""Periodic work: where it stands, and its past runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from celery_workmanager.migrations import small_index_columns

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NUMBERS = ("period_count", "override_generation")
_MOMENTS = ("period_at", "override_at")


def upgrade() -> None:
    """Add the columns (works that exist are one-time works) and the table of runs."""
    for name in _NUMBERS:
        op.add_column("workmanager_work", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
    for name in _MOMENTS:
        op.add_column("workmanager_work", sa.Column(name, sa.BigInteger(), nullable=True))
    op.create_index(
        "workmanager_work_periodic",
        "workmanager_work",
        small_index_columns(op.get_bind().dialect.name, "period_at", "id"),
        unique=False,
        postgresql_where=sa.text("period_at IS NOT NULL"),
        sqlite_where=sa.text("period_at IS NOT NULL"),
    )
    op.create_table(
        "workmanager_run",
        sa.Column("work", sa.String(length=155), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("period", sa.Integer(), nullable=False),
        sa.Column("scheduled_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=False),
        sa.Column("node", sa.String(length=155), nullable=True),
        sa.Column("outcome", sa.String(length=20), nullable=False),
        sa.Column("stop_reason", sa.SmallInteger(), nullable=False),
        sa.Column("output", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("work", "number"),
    )


def downgrade() -> None:
    """Drop them with everything in them."""
    op.drop_table("workmanager_run")
    op.drop_index("workmanager_work_periodic", "workmanager_work")
    for name in (*_NUMBERS, *_MOMENTS):
        op.drop_column("workmanager_work", name)
