"""The tables of the store as Django models: Django makes, migrates and flushes them, and can read them.

The same columns and indexes as in `tables`, where their meaning is told. Only the store writes to them: a row that is
saved here passes by every rule. Times are microseconds since 1970-01-01 UTC, JSON is text.
"""

from __future__ import annotations

from django.db import models

from celery_workmanager.django.fields import LongText, SmallIndex, TextKey
from celery_workmanager.tables import ID_LENGTH, NAME_LENGTH


class Work(models.Model):
    """A unit of work."""

    id = TextKey(max_length=ID_LENGTH, primary_key=True)
    worker = TextKey(max_length=NAME_LENGTH)
    queue = TextKey(max_length=NAME_LENGTH)
    state = models.SmallIntegerField()
    lane = models.BigIntegerField()
    ready_lane = models.BigIntegerField(null=True)
    urgency = models.SmallIntegerField()
    run_at = models.BigIntegerField()
    due_at = models.BigIntegerField(null=True)
    expires_at = models.BigIntegerField(null=True)
    held = models.SmallIntegerField(null=True)
    deadline_at = models.BigIntegerField(null=True)
    parked_by = TextKey(max_length=NAME_LENGTH, null=True)
    node = TextKey(max_length=ID_LENGTH, null=True)
    token = models.BigIntegerField(null=True)
    run_attempt_count = models.IntegerField()
    runs = models.IntegerField()
    interruptions = models.IntegerField()
    generation = models.IntegerField()
    stop_reason = models.SmallIntegerField()
    waits_for = models.IntegerField(null=True)
    has_parents = models.SmallIntegerField()
    has_children = models.SmallIntegerField()
    created_at = models.BigIntegerField()
    enqueued_at = models.BigIntegerField(null=True)
    started_at = models.BigIntegerField(null=True)
    finished_at = models.BigIntegerField(null=True)
    prune_at = models.BigIntegerField(null=True)
    version = models.BigIntegerField()
    retry_of = TextKey(max_length=ID_LENGTH, null=True)
    period_count = models.IntegerField(db_default=0)
    period_at = models.BigIntegerField(null=True)
    override_at = models.BigIntegerField(null=True)
    override_generation = models.IntegerField(db_default=0)
    options = LongText()
    input = LongText()
    output = LongText(null=True)
    progress = LongText(null=True)
    error = LongText(null=True)

    class Meta:
        db_table = "workmanager_work"
        default_permissions = ("view",)
        permissions = [
            ("cancel_work", "Can cancel work"),
            ("retry_work", "Can run finished work again"),
            ("run_work", "Can run work before its time"),
            ("pause_work", "Can pause and resume queues, tags and unique names"),
        ]
        indexes = [
            SmallIndex("waits_for", fields=("id",), name="workmanager_work_blocked"),
            SmallIndex("deadline_at", fields=("deadline_at",), name="workmanager_work_deadline"),
            SmallIndex("due_at", fields=("due_at",), name="workmanager_work_due"),
            SmallIndex("expires_at", fields=("expires_at",), name="workmanager_work_expires"),
            SmallIndex("held", fields=("id",), name="workmanager_work_held"),
            SmallIndex("node", fields=("node",), name="workmanager_work_node"),
            SmallIndex("parked_by", fields=("parked_by", "urgency", "run_at", "id"), name="workmanager_work_parked"),
            SmallIndex("period_at", fields=("id",), name="workmanager_work_periodic"),
            SmallIndex("prune_at", fields=("prune_at",), name="workmanager_work_prune"),
            SmallIndex("ready_lane", fields=("ready_lane", "urgency", "run_at", "id"), name="workmanager_work_ready"),
            models.Index(fields=("worker", "id"), name="workmanager_work_worker"),
        ]

    def __str__(self) -> str:
        return str(self.id)


class Edge(models.Model):
    """That `child` waits for `parent`; `position` is the parent's place among those of the child."""

    pk = models.CompositePrimaryKey("parent", "child")
    parent = TextKey(max_length=ID_LENGTH)
    child = TextKey(max_length=ID_LENGTH)
    position = models.IntegerField()

    class Meta:
        db_table = "workmanager_edge"
        indexes = [
            models.Index(fields=("child", "position"), name="workmanager_edge_child"),
        ]


class Tag(models.Model):
    """A tag of a work; the worker's name is one without a row."""

    pk = models.CompositePrimaryKey("work", "tag")
    work = TextKey(max_length=ID_LENGTH)
    tag = TextKey(max_length=NAME_LENGTH)

    class Meta:
        db_table = "workmanager_tag"
        indexes = [
            models.Index(fields=("tag", "work"), name="workmanager_tag_tag"),
        ]


class Name(models.Model):
    """A unique name: one permanent row, where enqueues of that name meet."""

    name = TextKey(max_length=NAME_LENGTH, primary_key=True)

    class Meta:
        db_table = "workmanager_name"


class Member(models.Model):
    """A work that carries a unique name."""

    pk = models.CompositePrimaryKey("name", "work")
    name = TextKey(max_length=NAME_LENGTH)
    work = TextKey(max_length=ID_LENGTH)

    class Meta:
        db_table = "workmanager_member"
        indexes = [
            models.Index(fields=("work",), name="workmanager_member_work"),
        ]


class Pause(models.Model):
    """A queue, tag or unique name that is paused."""

    pk = models.CompositePrimaryKey("kind", "label")
    kind = TextKey(max_length=8)
    label = TextKey(max_length=NAME_LENGTH)
    since = models.BigIntegerField()
    changed_at = models.BigIntegerField()
    token = models.IntegerField()
    phase = models.SmallIntegerField()

    class Meta:
        db_table = "workmanager_pause"


class Run(models.Model):
    """A past run of a periodic work."""

    pk = models.CompositePrimaryKey("work", "number")
    work = TextKey(max_length=ID_LENGTH)
    number = models.IntegerField()
    period = models.IntegerField()
    scheduled_at = models.BigIntegerField()
    started_at = models.BigIntegerField(null=True)
    finished_at = models.BigIntegerField()
    node = TextKey(max_length=ID_LENGTH, null=True)
    outcome = TextKey(max_length=20)
    stop_reason = models.SmallIntegerField()
    output = LongText(null=True)
    error = LongText(null=True)

    class Meta:
        db_table = "workmanager_run"


class Stop(models.Model):
    """A run that was stopped: when, why and where."""

    pk = models.CompositePrimaryKey("work", "number")
    work = TextKey(max_length=ID_LENGTH)
    number = models.IntegerField()
    reason = models.SmallIntegerField()
    at = models.BigIntegerField()
    started_at = models.BigIntegerField(null=True)
    node = TextKey(max_length=ID_LENGTH, null=True)
    run_attempt_count = models.IntegerField()

    class Meta:
        db_table = "workmanager_stop"


class Limit(models.Model):
    """A limit of the fleet."""

    key = TextKey(max_length=NAME_LENGTH, primary_key=True)
    full_at = models.BigIntegerField()
    wake_at = models.BigIntegerField(null=True)

    class Meta:
        db_table = "workmanager_limit"
        indexes = [
            SmallIndex("wake_at", fields=("wake_at",), name="workmanager_limit_wake"),
        ]


class Permit(models.Model):
    """A work that runs under a limit."""

    pk = models.CompositePrimaryKey("key", "work")
    key = TextKey(max_length=NAME_LENGTH)
    work = TextKey(max_length=ID_LENGTH)
    token = models.BigIntegerField()

    class Meta:
        db_table = "workmanager_permit"
        indexes = [
            models.Index(fields=("work",), name="workmanager_permit_work"),
        ]


class Node(models.Model):
    """A worker process that serves the store, and its lease."""

    id = TextKey(max_length=ID_LENGTH, primary_key=True)
    name = TextKey(max_length=NAME_LENGTH)
    host = TextKey(max_length=NAME_LENGTH)
    pid = models.IntegerField()
    pid_started_at = models.BigIntegerField()
    started_at = models.BigIntegerField()
    lease_until = models.BigIntegerField()
    facts = LongText()

    class Meta:
        db_table = "workmanager_node"


class Result(models.Model):
    """The result of an ordinary task, when the store is the app's result backend."""

    key = TextKey(max_length=NAME_LENGTH, primary_key=True)
    value = LongText()
    expires_at = models.BigIntegerField(null=True)

    class Meta:
        db_table = "workmanager_result"
        indexes = [
            SmallIndex("expires_at", fields=("expires_at",), name="workmanager_result_expires"),
        ]


class Fact(models.Model):
    """A fact about the whole store."""

    key = TextKey(max_length=NAME_LENGTH, primary_key=True)
    value = LongText()

    class Meta:
        db_table = "workmanager_fact"


class Schedule(models.Model):
    """An app's ``beat_schedule``, and the beat that fires it."""

    name = TextKey(max_length=NAME_LENGTH, primary_key=True)
    holder = TextKey(max_length=ID_LENGTH, null=True)
    token = models.BigIntegerField()
    lease_until = models.BigIntegerField()

    class Meta:
        db_table = "workmanager_schedule"


class Entry(models.Model):
    """An entry of a schedule."""

    pk = models.CompositePrimaryKey("schedule", "name")
    schedule = TextKey(max_length=NAME_LENGTH)
    name = TextKey(max_length=NAME_LENGTH)
    token = models.BigIntegerField()
    is_work = models.SmallIntegerField()
    last_run_at = models.BigIntegerField()
    total_run_count = models.BigIntegerField()
    firing_at = models.BigIntegerField(null=True)

    class Meta:
        db_table = "workmanager_entry"
