"""The index of claimable works: works of the same moment are claimed in the order in which they were made."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Order the index by id at last."""
    _replace("ready_lane", "urgency", "run_at", "id")


def downgrade() -> None:
    """Leave the id out again."""
    _replace("ready_lane", "urgency", "run_at")


def _replace(*columns: str) -> None:
    condition = sa.text("ready_lane IS NOT NULL")
    op.drop_index("workmanager_work_ready", "workmanager_work")
    op.create_index(
        "workmanager_work_ready",
        "workmanager_work",
        list(columns),
        unique=False,
        postgresql_where=condition,
        sqlite_where=condition,
    )
