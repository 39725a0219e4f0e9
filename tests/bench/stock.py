"""Comparisons and annotators for the judging part, in the database of DATA_DIR.

`python -m tests.bench.stock COUNT ANNOTATORS OUT` migrates, makes a project with COUNT
open comparisons and writes {"project", "tokens"} to OUT. Needs no model: the answers
are the tests' own.
"""

import json
import os
import sys
from pathlib import Path

import django

PROJECT = "bench"


def main(count: int, annotators: int) -> dict[str, object]:
    from django.core.management import call_command
    from django.db import transaction
    from knox.models import AuthToken

    from tests.factories import make_comparison, make_project, make_user

    call_command("migrate", verbosity=0)
    with transaction.atomic():
        project = make_project(slug=PROJECT)
        for _number in range(count):
            make_comparison(project=project)
        users = [make_user(project=project) for _number in range(annotators)]
        tokens = [AuthToken.objects.create(user)[1] for user in users]
    return {"project": PROJECT, "tokens": tokens}


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    made = main(int(sys.argv[1]), int(sys.argv[2]))
    Path(sys.argv[3]).write_text(json.dumps(made), encoding="utf-8")
