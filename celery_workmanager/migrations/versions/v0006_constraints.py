"""Constraints: deadlines, works that wait for a limit of the fleet, and the ledger of stops."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_DEADLINE = "deadline_at IS NOT NULL"
_PARKED = "parked_by IS NOT NULL"
_WAKE = "wake_at IS NOT NULL"


def upgrade() -> None:
    """Create the tables, the columns and their indexes."""
    op.create_table(
        "workmanager_stop",
        sa.Column("work", sa.String(length=155), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("reason", sa.SmallInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("node", sa.String(length=155), nullable=True),
        sa.Column("run_attempt_count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("work", "number"),
    )
    op.create_table(
        "workmanager_limit",
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("full_at", sa.BigInteger(), nullable=False),
        sa.Column("wake_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("key"),
    )
    _small_index("workmanager_limit_wake", "workmanager_limit", ["wake_at"], _WAKE)
    op.create_table(
        "workmanager_permit",
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("work", sa.String(length=155), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", "work"),
    )
    op.create_index("workmanager_permit_work", "workmanager_permit", ["work"], unique=False)
    op.add_column("workmanager_work", sa.Column("deadline_at", sa.BigInteger(), nullable=True))
    op.add_column("workmanager_work", sa.Column("parked_by", sa.String(length=255), nullable=True))
    _small_index("workmanager_work_deadline", "workmanager_work", ["deadline_at"], _DEADLINE)
    _small_index("workmanager_work_parked", "workmanager_work", ["parked_by", "urgency", "run_at", "id"], _PARKED)


def downgrade() -> None:
    """Forget all of it."""
    for name in ("workmanager_work_parked", "workmanager_work_deadline"):
        op.drop_index(name, "workmanager_work")
    op.drop_column("workmanager_work", "parked_by")
    op.drop_column("workmanager_work", "deadline_at")
    for table in ("workmanager_permit", "workmanager_limit", "workmanager_stop"):
        op.drop_table(table)


def _small_index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, unique=False, postgresql_where=where, sqlite_where=where)
