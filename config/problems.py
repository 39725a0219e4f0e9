"""Every error of the API as an RFC 9457 problem document, from one table.

Views and services raise what they mean; this is the one place that turns it into a
status and JSON. A failure of ours stays a 500, logged with its traceback, and the
client is told nothing but that. HTML pages have their own errors.
"""

import logging
import re
import sys
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.core.exceptions import (
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
)
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.template import loader
from django.utils.translation import gettext as _
from django.views import defaults
from django.views.decorators.csrf import csrf_exempt
from rest_framework import exceptions
from rest_framework.response import Response

from annotation.errors import Refused, WrongField
from annotation.retelling import retold
from inference.errors import AdapterRefused, DeployRefused, InferenceError
from training.errors import RoundRefused

log = logging.getLogger(__name__)
CONTENT_TYPE = "application/problem+json"
RETRY_SECONDS = 2


def document(status: int, detail: str, code: str = "", **more: Any) -> dict[str, Any]:
    """The problem as JSON: type, title, status, detail, code and what else is known."""
    return _encodable(
        {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            "code": code or HTTPStatus(status).name.lower(),
            **{key: value for key, value in more.items() if value is not None},
        }
    )


def _encodable(value: Any) -> Any:
    """Half a surrogate, which JSON can escape and UTF-8 cannot hold, as its escape.

    A problem names what was sent, and what was sent may be anything.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(item) for item in value]
    return value


def problem(
    status: int,
    detail: str,
    code: str = "",
    headers: dict[str, str] | None = None,
    **more: Any,
) -> Response:
    return Response(
        document(status, detail, code, **more),
        status=status,
        headers=headers,
        content_type=CONTENT_TYPE,
    )


def handle_exception(exc: Exception, context: dict[str, Any]) -> Response | None:
    """What the client is answered; None for a fault of ours, which Django then logs."""
    if isinstance(exc, WrongField):
        return invalid(exc.errors)
    if isinstance(exc, Refused):
        return problem(exc.status, exc.message, _code(exc))
    if isinstance(exc, RoundRefused):
        return problem(exc.status, exc.message, _code(exc), funnel=exc.funnel or None)
    if isinstance(exc, DeployRefused):
        # What is wrong with the adapter itself stays wrong; the rest may pass.
        status = 422 if isinstance(exc, AdapterRefused) else 409
        return problem(status, retold(str(exc)), _code(exc))
    if isinstance(exc, exceptions.ValidationError):
        return invalid(_flat(exc.detail))
    if isinstance(exc, Http404 | exceptions.NotFound):
        return problem(404, _("There is nothing here that you may see."))
    if isinstance(exc, PermissionDenied):
        return problem(403, str(exc) or _("Your role does not allow this."))
    if isinstance(exc, exceptions.APIException):
        return _from_rest_framework(exc)
    if isinstance(exc, RequestDataTooBig):
        return problem(413, _("The body is larger than this server takes."))
    if isinstance(exc, SuspiciousOperation):
        return problem(400, _("The request could not be read."))
    if isinstance(exc, InferenceError | OperationalError):
        # The model server or the database is not there at the moment: worth a retry.
        log.warning("answered 503: %s", exc, exc_info=exc)
        detail = str(exc) if isinstance(exc, InferenceError) else _("Busy; try again.")
        return problem(503, detail, headers={"Retry-After": str(RETRY_SECONDS)})
    return None


def _code(exc: Exception) -> str:
    """A word that programs can tell a refusal by: TooLate → too_late."""
    return re.sub(r"(?<=.)([A-Z])", r"_\1", type(exc).__name__).lower()


def invalid(errors: list[tuple[str, str]]) -> Response:
    """422 that names each field and what is wrong with it."""
    field, message = errors[0]
    return problem(
        422,
        f"{field}: {message}" if field else message,
        "invalid",
        errors=[{"field": name, "message": text} for name, text in errors],
    )


def _from_rest_framework(exc: exceptions.APIException) -> Response:
    headers = {}
    if getattr(exc, "auth_header", None):
        headers["WWW-Authenticate"] = exc.auth_header
    if getattr(exc, "wait", None):
        headers["Retry-After"] = f"{exc.wait:.0f}"
    code = exc.get_codes()
    more = getattr(exc, "more", {})
    return problem(
        exc.status_code,
        str(exc.detail),
        code if isinstance(code, str) else "",
        headers,
        **more,
    )


def _flat(detail: Any, path: str = "") -> list[tuple[str, str]]:
    """Nested messages of a serializer as (`rules.length[0]`, message)."""
    if isinstance(detail, dict):
        found = []
        for key, value in detail.items():
            if key == "non_field_errors":
                name = path
            elif isinstance(key, int):
                name = f"{path}[{key}]"
            else:
                name = f"{path}.{key}" if path else str(key)
            found += _flat(value, name)
        return found
    if isinstance(detail, list):
        found = []
        for index, value in enumerate(detail):
            nested = isinstance(value, dict | list)
            found += _flat(value, f"{path}[{index}]" if nested else path)
        return found
    return [(path, str(detail))]


@csrf_exempt
def api_not_found(request: HttpRequest) -> JsonResponse:
    """The last route of /api/: no page of HTML for a program."""
    return _without_a_view(404, _("There is no such call; see /api/docs."))


def _without_a_view(status: int, detail: str) -> JsonResponse:
    """A problem where no call of the API was reached, or it broke."""
    return JsonResponse(
        document(status, detail), status=status, content_type=CONTENT_TYPE
    )


def server_error(request: HttpRequest) -> HttpResponse:
    """handler500: a problem document for the API, the plain page for everybody else.

    A page that the database was not there for is 503, as such a call is.
    """
    if not request.path.startswith("/api/"):
        page = defaults.server_error(request)
        if isinstance(sys.exc_info()[1], OperationalError):
            page.status_code = 503
            page["Retry-After"] = str(RETRY_SECONDS)
        return page
    return _without_a_view(500, _("Something went wrong here; it has been logged."))


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """handler400, likewise; a form above the limit is 413 and told what the limit is."""
    if not request.path.startswith("/api/"):
        is_too_large = isinstance(exception, RequestDataTooBig)
        most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE if is_too_large else None
        page = loader.render_to_string("400.html", {"most": most})
        return HttpResponse(page, status=413 if is_too_large else 400)
    return _without_a_view(400, _("The request could not be read."))
