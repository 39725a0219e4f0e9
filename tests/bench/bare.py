"""The rival of judging: a Django view with one SELECT and one INSERT, and no more.

`gunicorn tests.bench.bare:application`, its database (a URL) in BARE_DATABASE, opened as
config/settings.py opens ours. No sessions, no sign-in, no checks, no next comparison.
`python -m tests.bench.bare` makes the tables and COUNT rows to select from.
"""

import json
import os
import sys

import dj_database_url
import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection, models
from django.http import HttpRequest, JsonResponse
from django.urls import path

SQLITE = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
}
settings.configure(
    SECRET_KEY="only for the bench",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    DATABASES={
        "default": dj_database_url.parse(os.environ["BARE_DATABASE"], conn_max_age=60)
        | ({"OPTIONS": SQLITE} if os.environ["BARE_DATABASE"][:6] == "sqlite" else {})
    },
)
django.setup()


class Item(models.Model):
    text = models.TextField()

    class Meta:
        app_label = "bare"

    def __str__(self) -> str:
        return self.text


class Vote(models.Model):
    item = models.ForeignKey(Item, models.CASCADE)
    verdict = models.CharField(max_length=10)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "bare"

    def __str__(self) -> str:
        return self.verdict


def vote(request: HttpRequest, pk: int) -> JsonResponse:
    item = Item.objects.get(pk=pk)
    verdict = json.loads(request.body)["verdict"]
    made = Vote.objects.create(item=item, verdict=verdict)
    return JsonResponse({"id": made.pk, "text": item.text}, status=201)


def ready(request: HttpRequest) -> JsonResponse:
    return JsonResponse({})


urlpatterns = [path("livez", ready), path("items/<int:pk>/vote", vote)]
application = get_wsgi_application()


def make_tables(count: int) -> None:
    """Items as long as what a lease shows: a question and two answers."""
    with connection.schema_editor() as editor:
        editor.create_model(Item)
        editor.create_model(Vote)
    text = "A question and two answers, each long enough to be judged fairly. " * 3
    Item.objects.bulk_create(Item(text=f"{n} {text}") for n in range(count))


if __name__ == "__main__":
    make_tables(int(sys.argv[1]))
