"""The first schema: works, edges, tags, names, nodes, results."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from celery_workmanager.migrations import small_index_columns

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "workmanager_edge",
        sa.Column("parent", sa.String(length=155), nullable=False),
        sa.Column("child", sa.String(length=155), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("parent", "child"),
    )
    op.create_index("workmanager_edge_child", "workmanager_edge", ["child", "position"], unique=False)
    op.create_table(
        "workmanager_fact",
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_table(
        "workmanager_member",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("work", sa.String(length=155), nullable=False),
        sa.PrimaryKeyConstraint("name", "work"),
    )
    op.create_index("workmanager_member_work", "workmanager_member", ["work"], unique=False)
    op.create_table(
        "workmanager_name",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "workmanager_node",
        sa.Column("id", sa.String(length=155), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("pid_started_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "workmanager_result",
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index(
        "workmanager_result_expires",
        "workmanager_result",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("expires_at IS NOT NULL"),
        sqlite_where=sa.text("expires_at IS NOT NULL"),
    )
    op.create_table(
        "workmanager_tag",
        sa.Column("work", sa.String(length=155), nullable=False),
        sa.Column("tag", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("work", "tag"),
    )
    op.create_index("workmanager_tag_tag", "workmanager_tag", ["tag", "work"], unique=False)
    op.create_table(
        "workmanager_work",
        sa.Column("id", sa.String(length=155), nullable=False),
        sa.Column("worker", sa.String(length=255), nullable=False),
        sa.Column("queue", sa.String(length=255), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("lane", sa.BigInteger(), nullable=False),
        sa.Column("ready_lane", sa.BigInteger(), nullable=True),
        sa.Column("urgency", sa.SmallInteger(), nullable=False),
        sa.Column("run_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("node", sa.String(length=155), nullable=True),
        sa.Column("token", sa.BigInteger(), nullable=True),
        sa.Column("run_attempt_count", sa.Integer(), nullable=False),
        sa.Column("runs", sa.Integer(), nullable=False),
        sa.Column("interruptions", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("stop_reason", sa.SmallInteger(), nullable=False),
        sa.Column("waits_for", sa.Integer(), nullable=True),
        sa.Column("has_parents", sa.SmallInteger(), nullable=False),
        sa.Column("has_children", sa.SmallInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("enqueued_at", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("prune_at", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("retry_of", sa.String(length=155), nullable=True),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("input", sa.Text(), nullable=False),
        sa.Column("output", sa.Text(), nullable=True),
        sa.Column("progress", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "workmanager_work_blocked",
        "workmanager_work",
        small_index_columns(op.get_bind().dialect.name, "waits_for", "id"),
        unique=False,
        postgresql_where=sa.text("waits_for IS NOT NULL"),
        sqlite_where=sa.text("waits_for IS NOT NULL"),
    )
    op.create_index(
        "workmanager_work_due",
        "workmanager_work",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("due_at IS NOT NULL"),
        sqlite_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(
        "workmanager_work_expires",
        "workmanager_work",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("expires_at IS NOT NULL"),
        sqlite_where=sa.text("expires_at IS NOT NULL"),
    )
    op.create_index(
        "workmanager_work_node",
        "workmanager_work",
        ["node"],
        unique=False,
        postgresql_where=sa.text("node IS NOT NULL"),
        sqlite_where=sa.text("node IS NOT NULL"),
    )
    op.create_index(
        "workmanager_work_prune",
        "workmanager_work",
        ["prune_at"],
        unique=False,
        postgresql_where=sa.text("prune_at IS NOT NULL"),
        sqlite_where=sa.text("prune_at IS NOT NULL"),
    )
    op.create_index(
        "workmanager_work_ready",
        "workmanager_work",
        ["ready_lane", "urgency", "run_at"],
        unique=False,
        postgresql_where=sa.text("ready_lane IS NOT NULL"),
        sqlite_where=sa.text("ready_lane IS NOT NULL"),
    )
    op.create_index("workmanager_work_worker", "workmanager_work", ["worker", "id"], unique=False)


def downgrade() -> None:
    """Drop the tables with everything in them."""
    op.drop_table("workmanager_work")
    op.drop_table("workmanager_tag")
    op.drop_table("workmanager_result")
    op.drop_table("workmanager_node")
    op.drop_table("workmanager_name")
    op.drop_table("workmanager_member")
    op.drop_table("workmanager_fact")
    op.drop_table("workmanager_edge")
