from django.db import migrations, models

import annotation.models.comparisons


class Migration(migrations.Migration):
    dependencies = [("annotation", "0008_overview")]

    operations = [
        # 0: whatever is stored was made before renderers had a number.
        migrations.AddField(
            model_name="completion",
            name="html_version",
            field=models.PositiveSmallIntegerField(default=0, editable=False),
        ),
        migrations.AlterField(
            model_name="completion",
            name="html_version",
            field=models.PositiveSmallIntegerField(
                default=annotation.models.comparisons.renderer_version, editable=False
            ),
        ),
        migrations.AddIndex(
            model_name="completion",
            index=models.Index(fields=["html_version"], name="completion_by_renderer"),
        ),
    ]
