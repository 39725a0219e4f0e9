"""A queued round is nudged again only after a while; a running one says what it does."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("training", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="traininground",
            name="nudged_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="traininground",
            name="activity",
            field=models.JSONField(blank=True, default=dict),
        ),
    ]
