"""Export: what, in which format, narrowed how; the page counts before it downloads."""

from typing import Any

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from annotation import downloads, export_filters, figures
from annotation.access import needs
from annotation.errors import ExportRefused
from annotation.forms import ExportForm
from annotation.models import Project, Role
from annotation.pages import page


@require_safe
@needs(Role.REVIEWER)
def export(request: HttpRequest, slug: str) -> HttpResponse:
    reader: dict[str, Any] = {"user": request.user, "role": request.role}
    form = ExportForm(request.GET or None, project=request.project, **reader)
    params = request.GET.dict()
    counts, known, status = {}, None, 200
    try:
        asked = export_filters.wanted(params, request.project, **reader)
        counts, known = _counts(request.project, asked)
    except ExportRefused as refused:
        if refused.field not in form.errors:  # else said already, by the field itself
            form.add_error(refused.field, refused.message)
        status = 422
    context = {"form": form, "counts": counts, "figures": known}
    return page(request, "annotation/export.html", context, status=status)


def _counts(
    project: Project, asked: export_filters.Wanted
) -> tuple[dict[str, int], figures.Figures | None]:
    """How much is asked for, and the figures it was read from: those of the whole of a
    big project are kept, and counting them would take seconds."""
    prompts = export_filters.prompts(project, asked).count()
    if not asked.is_narrowed:
        known = figures.of(project, "totals")
        if totals := known["totals"]:
            counts = {"pairs": totals["sound"], "judgments": totals["judgments"]}
            return counts | {"prompts": prompts}, known
    return {
        "pairs": export_filters.pairs(project, asked).count(),
        "judgments": export_filters.judgments(project, asked).count(),
        "prompts": prompts,
    }, None


@require_safe
@needs(Role.REVIEWER)
def export_file(
    request: HttpRequest, slug: str
) -> HttpResponse | StreamingHttpResponse:
    """The download; `what` is pairs, judgments, prompts or dataset."""
    params = request.GET.dict()
    project, role, user = request.project, request.role, request.user
    makers = {
        "pairs": lambda: downloads.pairs(project, params, user=user, role=role),
        "judgments": lambda: downloads.judgments(project, params, role, user),
        "prompts": lambda: downloads.prompts(project, params, user=user, role=role),
        "dataset": lambda: downloads.dataset(project, params, role, user=user),
    }
    # The page offers one choice for both: "judgments:csv".
    what, _colon, format = params.pop("what", "pairs").partition(":")
    if format:
        params["format"] = format
    try:
        if what not in makers:
            known = ", ".join(makers)
            raise ExportRefused(
                "what", _("Unknown; known here: %(names)s.") % {"names": known}
            )
        return makers[what]()
    except ExportRefused as refused:
        return HttpResponse(
            refused.message, status=422, content_type="text/plain; charset=utf-8"
        )


@require_safe
@needs(Role.REVIEWER)
def export_pairs(
    request: HttpRequest, slug: str
) -> HttpResponse | StreamingHttpResponse:
    """The sound pairs as JSON lines, streamed."""
    try:
        return downloads.pairs(
            request.project,
            request.GET.dict(),
            user=request.user,
            role=request.role,
        )
    except ExportRefused as refused:
        return HttpResponse(
            refused.message, status=422, content_type="text/plain; charset=utf-8"
        )
