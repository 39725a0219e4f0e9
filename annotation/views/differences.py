"""The pair on the desk with the words marked in which its answers differ.

Made only when asked for: for htmx the two texts, which static/differences.js puts in
their columns; else a page of its own.
"""

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from annotation import showing
from annotation.access import role_of
from annotation.differences import of_lease
from annotation.models import Lease
from annotation.pages import page
from annotation.views.compare import on_own

TEMPLATE = "annotation/differences.html"


@require_safe
@on_own(showing.lease_for)
def differences(request: HttpRequest, lease: Lease) -> HttpResponse:
    context = {"found": of_lease(lease)}
    if request.htmx:
        return page(request, f"{TEMPLATE}#texts", context)
    request.role = role_of(request.user, request.project)
    return page(request, TEMPLATE, context)
