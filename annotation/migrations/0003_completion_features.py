from django.db import migrations, models
from django.db.models import F, Value
from django.db.models.functions import Concat, Length, Replace


def occurrences(mark):
    lines = Concat(Value("\n"), F("text"))
    without = Length(Replace(lines, Value(mark), Value("")))
    return (Length(lines) - without) / len(mark)


class Migration(migrations.Migration):
    dependencies = [("annotation", "0002_stock_reservation")]

    operations = [
        migrations.AddField(
            model_name="completion",
            name="characters",
            field=models.GeneratedField(
                db_persist=True,
                expression=Length("text"),
                output_field=models.IntegerField(),
            ),
        ),
        migrations.AddField(
            model_name="completion",
            name="markup",
            field=models.GeneratedField(
                db_persist=True,
                expression=occurrences("**") / 2
                + occurrences("\n#")
                + occurrences("\n- ")
                + occurrences("\n* ")
                + occurrences("\n1. "),
                output_field=models.IntegerField(),
            ),
        ),
    ]
