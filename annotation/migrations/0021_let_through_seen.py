from django.db import migrations, models


def keep_what_was_seen(apps, schema_editor):
    """As far as the verdicts still say it; the rest goes on counting by the rule's name."""
    LetThrough = apps.get_model("annotation", "LetThrough")
    RuleVerdict = apps.get_model("annotation", "RuleVerdict")
    for word in LetThrough.objects.filter(taken_back_at=None).iterator():
        said = RuleVerdict.objects.filter(
            pair=word.pair_id, rule__in=word.rules, is_let_through=True
        )
        word.seen = {verdict.rule: [verdict.result, verdict.reason] for verdict in said}
        word.save(update_fields=["seen"])


class Migration(migrations.Migration):

    dependencies = [
        ('annotation', '0020_rules_code'),
    ]

    operations = [
        migrations.AddField(
            model_name='letthrough',
            name='seen',
            field=models.JSONField(default=dict),
        ),
        migrations.RunPython(keep_what_was_seen, migrations.RunPython.noop),
    ]
