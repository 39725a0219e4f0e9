import random

from django.db import migrations, models
from django.db.models import Q


def fill(apps, schema_editor):
    """Count what was judged so far, and give each open comparison a place of its own.

    In statements over all rows: a loop over a million would take minutes.
    """
    share = (
        "random()"
        if schema_editor.connection.vendor == "postgresql"
        else "abs(random() % 1000000007) / 1000000007.0"
    )
    schema_editor.execute(
        f"UPDATE annotation_comparison SET shuffle = {share}", params=None
    )
    schema_editor.execute(
        "UPDATE annotation_comparison SET judged = (SELECT COUNT(*) FROM"
        " annotation_judgment j WHERE j.comparison_id = annotation_comparison.id"
        " AND j.undone_at IS NULL)",
        params=None,
    )


class Migration(migrations.Migration):
    dependencies = [("annotation", "0009_completion_html_version")]

    operations = [
        migrations.AddField(
            model_name="comparison",
            name="judged",
            field=models.PositiveSmallIntegerField(default=0, editable=False),
        ),
        migrations.AddField(
            model_name="comparison",
            name="shuffle",
            field=models.FloatField(default=random.random, editable=False),
        ),
        migrations.RunPython(fill, migrations.RunPython.noop),
        migrations.AddIndex(
            model_name="comparison",
            index=models.Index(
                condition=Q(state="open"),
                fields=["project", "judged", "id"],
                name="comparison_fewest",
            ),
        ),
        migrations.AddIndex(
            model_name="comparison",
            index=models.Index(
                condition=Q(state="open"),
                fields=["project", "shuffle"],
                name="comparison_random",
            ),
        ),
    ]
