"""The Celery app: three queues and a clock.

`default` checks rules and heals, `generate` keeps the stock of comparisons ahead,
`gpu` runs one round at a time. A message is only a nudge: rows in the database are
the truth, and the beat below sends again what was lost. There is no result backend.
"""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("tiebreak")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["inference", "annotation", "training"])
