"""The Celery app: three queues and a clock.

`default` checks rules and heals, `generate` keeps the stock of comparisons ahead,
`gpu` runs one round at a time. A message is only a nudge: rows in the database are
the truth, and the beat below sends again what was lost. There is no result backend.
"""

import os
from typing import Any

from celery import Celery, Task
from django.utils import translation

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")


class InEnglish(Task):
    """A worker has no reader: what it notes is kept in English, whatever the site's
    LANGUAGE_CODE, and told again in the reader's language (annotation/retelling.py)."""

    abstract = True

    def __call__(self, *args: Any, **options: Any) -> Any:
        with translation.override(None):
            return super().__call__(*args, **options)


app = Celery("tiebreak", task_cls=InEnglish)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["inference", "annotation", "training"])
