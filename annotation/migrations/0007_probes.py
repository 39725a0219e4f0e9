import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('annotation', '0006_workspace'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='GoldItem',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('expected', models.CharField(choices=[('winner', 'one is better'), ('tie', 'equally good'), ('both_bad', 'both bad')], max_length=8)),
                ('explanation', models.TextField(blank=True)),
                ('sha256', models.CharField(max_length=64)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('retired_at', models.DateTimeField(blank=True, null=True)),
                ('was_wrong', models.BooleanField(default=False)),
            ],
            options={
                'ordering': ['-id'],
            },
        ),
        migrations.CreateModel(
            name='Probe',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
            ],
        ),
        migrations.AddField(
            model_name='judgment',
            name='let_count_at',
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name='judgment',
            name='let_count_by',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name='judgment',
            name='waits_for_review',
            field=models.BooleanField(db_default=False, default=False),
        ),
        migrations.AddField(
            model_name='prompt',
            name='is_gold',
            field=models.BooleanField(db_default=False, default=False),
        ),
        migrations.AddIndex(
            model_name='judgment',
            index=models.Index(condition=models.Q(('undone_at', None), ('waits_for_review', True)), fields=['project', 'annotator'], name='waiting_judgments'),
        ),
        migrations.AddConstraint(
            model_name='judgment',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('let_count_at', None), ('let_count_by', None)), models.Q(('let_count_at__isnull', False), ('let_count_by__isnull', False), ('waits_for_review', False)), _connector='OR'), name='let_count_by_somebody'),
        ),
        migrations.AddField(
            model_name='golditem',
            name='a',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='annotation.completion'),
        ),
        migrations.AddField(
            model_name='golditem',
            name='author',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name='golditem',
            name='b',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='annotation.completion'),
        ),
        migrations.AddField(
            model_name='golditem',
            name='project',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='gold_items', to='annotation.project'),
        ),
        migrations.AddField(
            model_name='golditem',
            name='prompt',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='annotation.prompt'),
        ),
        migrations.AddField(
            model_name='golditem',
            name='retired_by',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name='golditem',
            name='source',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='gold_items', to='annotation.comparison'),
        ),
        migrations.AddField(
            model_name='golditem',
            name='winner',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='annotation.completion'),
        ),
        migrations.AddField(
            model_name='probe',
            name='after',
            field=models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, related_name='probe_after', to='annotation.judgment'),
        ),
        migrations.AddField(
            model_name='probe',
            name='annotator',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='probes', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name='probe',
            name='comparison',
            field=models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='probe', to='annotation.comparison'),
        ),
        migrations.AddField(
            model_name='probe',
            name='gold',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='probes', to='annotation.golditem'),
        ),
        migrations.AddField(
            model_name='probe',
            name='project',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='probes', to='annotation.project'),
        ),
        migrations.AddField(
            model_name='probe',
            name='repeats',
            field=models.OneToOneField(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='repeat', to='annotation.judgment'),
        ),
        migrations.AddConstraint(
            model_name='golditem',
            constraint=models.CheckConstraint(condition=models.Q(('a', models.F('b')), _negated=True), name='gold_of_two'),
        ),
        migrations.AddConstraint(
            model_name='golditem',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('expected', 'winner'), ('winner', models.F('a')), ('winner__isnull', False)), models.Q(('expected__in', ['tie', 'both_bad']), ('winner', None)), _connector='OR'), name='gold_names_its_winner'),
        ),
        migrations.AddConstraint(
            model_name='golditem',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('retired_at', None), ('retired_by', None), ('was_wrong', False)), models.Q(('retired_at__isnull', False), ('retired_by__isnull', False)), _connector='OR'), name='gold_retired_by_somebody'),
        ),
        migrations.AddConstraint(
            model_name='golditem',
            constraint=models.UniqueConstraint(condition=models.Q(('retired_at', None)), fields=('project', 'sha256'), name='gold_once'),
        ),
        migrations.AddIndex(
            model_name='probe',
            index=models.Index(fields=['project', 'annotator', '-id'], name='my_probes'),
        ),
        migrations.AddConstraint(
            model_name='probe',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('gold__isnull', False), ('repeats', None)), models.Q(('gold', None), ('repeats__isnull', False)), _connector='OR'), name='probe_of_one_kind'),
        ),
        migrations.AddConstraint(
            model_name='probe',
            constraint=models.UniqueConstraint(fields=('gold', 'annotator'), name='gold_once_a_person'),
        ),
    ]
