from django.db import migrations, models


def take_the_name_away(apps, schema_editor):
    """It was kept in the language of who had pasted them. A file's own name stays."""
    job = apps.get_model("annotation", "ImportJob")
    pasted = job.objects.filter(is_ours=True, path__endswith="/upload")
    pasted.filter(name__in=["pasted lines", "粘贴的内容"]).update(name="")


class Migration(migrations.Migration):
    dependencies = [("annotation", "0024_pairs_of_every_edit")]

    operations = [
        migrations.AlterField(
            model_name="importjob",
            name="name",
            field=models.CharField(blank=True, max_length=200),
        ),
        migrations.RunPython(take_the_name_away, migrations.RunPython.noop),
    ]
