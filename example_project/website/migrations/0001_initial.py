import uuid

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies: list[tuple[str, str]] = []

    operations = [
        migrations.CreateModel(
            name="Picture",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("visitor", models.CharField(max_length=32)),
                ("name", models.CharField(max_length=80)),
                ("label", models.CharField(blank=True, max_length=30)),
                ("level", models.PositiveSmallIntegerField()),
                ("suffix", models.CharField(max_length=5)),
                ("width", models.PositiveIntegerField()),
                ("height", models.PositiveIntegerField()),
                ("sent_at", models.DateTimeField(auto_now_add=True, db_index=True)),
            ],
        ),
    ]
