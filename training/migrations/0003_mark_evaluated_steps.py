"""Which steps have figures of held-out pairs: pages show them all, and most others not."""

from django.db import migrations, models


def mark(apps, schema_editor):
    """The trainer writes `eval_loss` with every evaluation."""
    steps = apps.get_model("training", "RoundMetric").objects
    steps.filter(values__has_key="eval_loss").update(is_evaluated=True)


class Migration(migrations.Migration):
    dependencies = [("training", "0002_remember_nudges_and_activity")]

    operations = [
        migrations.AddField(
            model_name="roundmetric",
            name="is_evaluated",
            field=models.BooleanField(default=False),
        ),
        migrations.RunPython(mark, migrations.RunPython.noop),
        migrations.AddIndex(
            model_name="roundmetric",
            index=models.Index(
                condition=models.Q(("is_evaluated", True)),
                fields=["training_round", "phase", "step"],
                name="evaluated_steps",
            ),
        ),
    ]
