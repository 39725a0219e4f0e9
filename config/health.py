"""`/livez`: this process answers. `/readyz`: so does everything it stands on.

Open to anyone who can reach the port, so it names parts and plain states only: no
address, no path, no policy.
"""

from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe
from kombu.exceptions import OperationalError

from config.celery import app
from inference.queries import readiness


@require_safe
def livez(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok\n", content_type="text/plain")


@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    parts = {"database": _database(), "redis": _redis()}
    if parts["database"]["ok"]:
        parts |= {name: _part(ok, detail) for name, ok, detail in readiness()}
    ready = all(part["ok"] for part in parts.values())
    return JsonResponse({"ready": ready, "parts": parts}, status=200 if ready else 503)


def _part(ok: bool, detail: str = "") -> dict:
    return {"ok": ok, "detail": str(detail)}


def _database() -> dict:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM django_migrations LIMIT 1")
    except DatabaseError:
        return _part(False, "does not answer or has not been migrated")
    return _part(True)


def _redis() -> dict:
    try:
        with app.connection_for_write(
            transport_options={"socket_timeout": 2}
        ) as broker:
            broker.ensure_connection(max_retries=1, interval_start=0, timeout=2)
    except (OperationalError, OSError):
        return _part(False, "does not answer")
    return _part(True)
