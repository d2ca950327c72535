"""The tables as of schema 0006."""

from django.db import migrations, models

import celery_workmanager.django.fields
from celery_workmanager.django.revision import revision_is


class Migration(migrations.Migration):
    """Creates the store."""

    initial = True

    operations = [
        migrations.CreateModel(
            name="Entry",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "schedule", "name", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("schedule", celery_workmanager.django.fields.TextKey(max_length=255)),
                ("name", celery_workmanager.django.fields.TextKey(max_length=255)),
                ("token", models.BigIntegerField()),
                ("is_work", models.SmallIntegerField()),
                ("last_run_at", models.BigIntegerField()),
                ("total_run_count", models.BigIntegerField()),
                ("firing_at", models.BigIntegerField(null=True)),
            ],
            options={
                "db_table": "workmanager_entry",
            },
        ),
        migrations.CreateModel(
            name="Fact",
            fields=[
                ("key", celery_workmanager.django.fields.TextKey(max_length=255, primary_key=True, serialize=False)),
                ("value", celery_workmanager.django.fields.LongText()),
            ],
            options={
                "db_table": "workmanager_fact",
            },
        ),
        migrations.CreateModel(
            name="Name",
            fields=[
                ("name", celery_workmanager.django.fields.TextKey(max_length=255, primary_key=True, serialize=False)),
            ],
            options={
                "db_table": "workmanager_name",
            },
        ),
        migrations.CreateModel(
            name="Node",
            fields=[
                ("id", celery_workmanager.django.fields.TextKey(max_length=155, primary_key=True, serialize=False)),
                ("name", celery_workmanager.django.fields.TextKey(max_length=255)),
                ("host", celery_workmanager.django.fields.TextKey(max_length=255)),
                ("pid", models.IntegerField()),
                ("pid_started_at", models.BigIntegerField()),
                ("started_at", models.BigIntegerField()),
                ("lease_until", models.BigIntegerField()),
                ("facts", celery_workmanager.django.fields.LongText()),
            ],
            options={
                "db_table": "workmanager_node",
            },
        ),
        migrations.CreateModel(
            name="Pause",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "kind", "label", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("kind", celery_workmanager.django.fields.TextKey(max_length=8)),
                ("label", celery_workmanager.django.fields.TextKey(max_length=255)),
                ("since", models.BigIntegerField()),
                ("changed_at", models.BigIntegerField()),
                ("token", models.IntegerField()),
                ("phase", models.SmallIntegerField()),
            ],
            options={
                "db_table": "workmanager_pause",
            },
        ),
        migrations.CreateModel(
            name="Run",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "work", "number", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("work", celery_workmanager.django.fields.TextKey(max_length=155)),
                ("number", models.IntegerField()),
                ("period", models.IntegerField()),
                ("scheduled_at", models.BigIntegerField()),
                ("started_at", models.BigIntegerField(null=True)),
                ("finished_at", models.BigIntegerField()),
                ("node", celery_workmanager.django.fields.TextKey(max_length=155, null=True)),
                ("outcome", celery_workmanager.django.fields.TextKey(max_length=20)),
                ("stop_reason", models.SmallIntegerField()),
                ("output", celery_workmanager.django.fields.LongText(null=True)),
                ("error", celery_workmanager.django.fields.LongText(null=True)),
            ],
            options={
                "db_table": "workmanager_run",
            },
        ),
        migrations.CreateModel(
            name="Schedule",
            fields=[
                ("name", celery_workmanager.django.fields.TextKey(max_length=255, primary_key=True, serialize=False)),
                ("holder", celery_workmanager.django.fields.TextKey(max_length=155, null=True)),
                ("token", models.BigIntegerField()),
                ("lease_until", models.BigIntegerField()),
            ],
            options={
                "db_table": "workmanager_schedule",
            },
        ),
        migrations.CreateModel(
            name="Stop",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "work", "number", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("work", celery_workmanager.django.fields.TextKey(max_length=155)),
                ("number", models.IntegerField()),
                ("reason", models.SmallIntegerField()),
                ("at", models.BigIntegerField()),
                ("started_at", models.BigIntegerField(null=True)),
                ("node", celery_workmanager.django.fields.TextKey(max_length=155, null=True)),
                ("run_attempt_count", models.IntegerField()),
            ],
            options={
                "db_table": "workmanager_stop",
            },
        ),
        migrations.CreateModel(
            name="Edge",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "parent", "child", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("parent", celery_workmanager.django.fields.TextKey(max_length=155)),
                ("child", celery_workmanager.django.fields.TextKey(max_length=155)),
                ("position", models.IntegerField()),
            ],
            options={
                "db_table": "workmanager_edge",
                "indexes": [models.Index(fields=["child", "position"], name="workmanager_edge_child")],
            },
        ),
        migrations.CreateModel(
            name="Limit",
            fields=[
                ("key", celery_workmanager.django.fields.TextKey(max_length=255, primary_key=True, serialize=False)),
                ("full_at", models.BigIntegerField()),
                ("wake_at", models.BigIntegerField(null=True)),
            ],
            options={
                "db_table": "workmanager_limit",
                "indexes": [
                    celery_workmanager.django.fields.SmallIndex(
                        "wake_at", fields=["wake_at"], name="workmanager_limit_wake"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Member",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "name", "work", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("name", celery_workmanager.django.fields.TextKey(max_length=255)),
                ("work", celery_workmanager.django.fields.TextKey(max_length=155)),
            ],
            options={
                "db_table": "workmanager_member",
                "indexes": [models.Index(fields=["work"], name="workmanager_member_work")],
            },
        ),
        migrations.CreateModel(
            name="Permit",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "key", "work", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("key", celery_workmanager.django.fields.TextKey(max_length=255)),
                ("work", celery_workmanager.django.fields.TextKey(max_length=155)),
                ("token", models.BigIntegerField()),
            ],
            options={
                "db_table": "workmanager_permit",
                "indexes": [models.Index(fields=["work"], name="workmanager_permit_work")],
            },
        ),
        migrations.CreateModel(
            name="Result",
            fields=[
                ("key", celery_workmanager.django.fields.TextKey(max_length=255, primary_key=True, serialize=False)),
                ("value", celery_workmanager.django.fields.LongText()),
                ("expires_at", models.BigIntegerField(null=True)),
            ],
            options={
                "db_table": "workmanager_result",
                "indexes": [
                    celery_workmanager.django.fields.SmallIndex(
                        "expires_at", fields=["expires_at"], name="workmanager_result_expires"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Tag",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "work", "tag", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("work", celery_workmanager.django.fields.TextKey(max_length=155)),
                ("tag", celery_workmanager.django.fields.TextKey(max_length=255)),
            ],
            options={
                "db_table": "workmanager_tag",
                "indexes": [models.Index(fields=["tag", "work"], name="workmanager_tag_tag")],
            },
        ),
        migrations.CreateModel(
            name="Work",
            fields=[
                ("id", celery_workmanager.django.fields.TextKey(max_length=155, primary_key=True, serialize=False)),
                ("worker", celery_workmanager.django.fields.TextKey(max_length=255)),
                ("queue", celery_workmanager.django.fields.TextKey(max_length=255)),
                ("state", models.SmallIntegerField()),
                ("lane", models.BigIntegerField()),
                ("ready_lane", models.BigIntegerField(null=True)),
                ("urgency", models.SmallIntegerField()),
                ("run_at", models.BigIntegerField()),
                ("due_at", models.BigIntegerField(null=True)),
                ("expires_at", models.BigIntegerField(null=True)),
                ("held", models.SmallIntegerField(null=True)),
                ("deadline_at", models.BigIntegerField(null=True)),
                ("parked_by", celery_workmanager.django.fields.TextKey(max_length=255, null=True)),
                ("node", celery_workmanager.django.fields.TextKey(max_length=155, null=True)),
                ("token", models.BigIntegerField(null=True)),
                ("run_attempt_count", models.IntegerField()),
                ("runs", models.IntegerField()),
                ("interruptions", models.IntegerField()),
                ("generation", models.IntegerField()),
                ("stop_reason", models.SmallIntegerField()),
                ("waits_for", models.IntegerField(null=True)),
                ("has_parents", models.SmallIntegerField()),
                ("has_children", models.SmallIntegerField()),
                ("created_at", models.BigIntegerField()),
                ("enqueued_at", models.BigIntegerField(null=True)),
                ("started_at", models.BigIntegerField(null=True)),
                ("finished_at", models.BigIntegerField(null=True)),
                ("prune_at", models.BigIntegerField(null=True)),
                ("version", models.BigIntegerField()),
                ("retry_of", celery_workmanager.django.fields.TextKey(max_length=155, null=True)),
                ("period_count", models.IntegerField(db_default=0)),
                ("period_at", models.BigIntegerField(null=True)),
                ("override_at", models.BigIntegerField(null=True)),
                ("override_generation", models.IntegerField(db_default=0)),
                ("options", celery_workmanager.django.fields.LongText()),
                ("input", celery_workmanager.django.fields.LongText()),
                ("output", celery_workmanager.django.fields.LongText(null=True)),
                ("progress", celery_workmanager.django.fields.LongText(null=True)),
                ("error", celery_workmanager.django.fields.LongText(null=True)),
            ],
            options={
                "db_table": "workmanager_work",
                "permissions": [
                    ("cancel_work", "Can cancel work"),
                    ("retry_work", "Can run finished work again"),
                    ("run_work", "Can run work before its time"),
                    ("pause_work", "Can pause and resume queues, tags and unique names"),
                ],
                "default_permissions": ("view",),
                "indexes": [
                    celery_workmanager.django.fields.SmallIndex(
                        "waits_for", fields=["id"], name="workmanager_work_blocked"
                    ),
                    celery_workmanager.django.fields.SmallIndex(
                        "deadline_at", fields=["deadline_at"], name="workmanager_work_deadline"
                    ),
                    celery_workmanager.django.fields.SmallIndex(
                        "due_at", fields=["due_at"], name="workmanager_work_due"
                    ),
                    celery_workmanager.django.fields.SmallIndex(
                        "expires_at", fields=["expires_at"], name="workmanager_work_expires"
                    ),
                    celery_workmanager.django.fields.SmallIndex("held", fields=["id"], name="workmanager_work_held"),
                    celery_workmanager.django.fields.SmallIndex("node", fields=["node"], name="workmanager_work_node"),
                    celery_workmanager.django.fields.SmallIndex(
                        "parked_by", fields=["parked_by", "urgency", "run_at", "id"], name="workmanager_work_parked"
                    ),
                    celery_workmanager.django.fields.SmallIndex(
                        "period_at", fields=["id"], name="workmanager_work_periodic"
                    ),
                    celery_workmanager.django.fields.SmallIndex(
                        "prune_at", fields=["prune_at"], name="workmanager_work_prune"
                    ),
                    celery_workmanager.django.fields.SmallIndex(
                        "ready_lane", fields=["ready_lane", "urgency", "run_at", "id"], name="workmanager_work_ready"
                    ),
                    models.Index(fields=["worker", "id"], name="workmanager_work_worker"),
                ],
            },
        ),
        revision_is("0006", before=None),
    ]
