import django.db.models.deletion
from django.db import migrations, models

import annotation.models.fields
from annotation.models.fields import asked
from annotation.scripts import main_script

BATCH = 1000


def find_scripts(apps, schema_editor):
    """Of the rows there are; from now on the field sees to it itself."""
    for name, source in (("Completion", "text"), ("Prompt", "messages")):
        rows = apps.get_model("annotation", name).objects
        last = 0
        while batch := list(
            rows.filter(pk__gt=last).only("pk", source).order_by("pk")[:BATCH]
        ):
            for row in batch:
                text = getattr(row, source)
                row.script = main_script(text if source == "text" else asked(text))
            rows.bulk_update(batch, ["script"])
            last = batch[-1].pk


class Migration(migrations.Migration):
    dependencies = [("annotation", '0007_probes')]

    operations = [
        migrations.CreateModel(
            name="ProjectFigures",
            fields=[
                (
                    "project",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="stored_figures",
                        serialize=False,
                        to="annotation.project",
                    ),
                ),
                ("values", models.JSONField(default=dict)),
                ("as_of", models.DateTimeField(null=True)),
                ("seconds", models.FloatField(default=0)),
                ("asked_at", models.DateTimeField(null=True)),
                ("started_at", models.DateTimeField(null=True)),
            ],
            options={"verbose_name_plural": "project figures"},
        ),
        migrations.AddField(
            model_name="completion",
            name="script",
            field=annotation.models.fields.ScriptField(reads="text"),
        ),
        migrations.AddField(
            model_name="prompt",
            name="script",
            field=annotation.models.fields.ScriptField(reads="messages"),
        ),
        migrations.RunPython(find_scripts, migrations.RunPython.noop, elidable=True),
    ]
