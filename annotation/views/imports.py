"""Import: a file comes in, is looked at, and a worker takes it while the page shows how far.

The job's row says everything; the page polls while a worker is at it (htmx, ETag).
"""

import csv
import hashlib
from typing import Any

from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseNotModified,
    StreamingHttpResponse,
)
from django.shortcuts import get_object_or_404, redirect
from django.utils.translation import get_language
from django.views.decorators.http import (
    require_http_methods,
    require_POST,
    require_safe,
)

from annotation import import_jobs, words
from annotation.access import needs
from annotation.batches import paged
from annotation.errors import ImportRefused, ImportState, Refused
from annotation.files.faults import BadRow, shown
from annotation.files.tables import defused
from annotation.files.writing import TYPES
from annotation.forms import ImportForm, MappingForm
from annotation.models import ImportJob, Project, Role
from annotation.pages import page
from annotation.retelling import retold
from inference.faults import told

STOP_POLLING = 286
"""htmx ends its polling on this status and still swaps the answer."""
SHOWN_FAULTS = 100
SHOWN_JOBS = 20


def by_import(pk: int, **_others: object) -> Project:
    rows = ImportJob.objects.select_related(
        "project__channel__serving", "project__base"
    )
    return get_object_or_404(rows, pk=pk).project


@require_http_methods(["GET", "HEAD", "POST"])
@needs(Role.MANAGER)
def imports(request: HttpRequest, slug: str) -> HttpResponse:
    if request.method != "POST":
        return _list(request, ImportForm(request=request))
    form = ImportForm(request.POST, request.FILES, request=request)
    if not form.is_valid():
        return _list(request, form, status=422)
    try:
        job = form.received(request.project, request.user)
    except Refused as refused:
        form.add_error(None, refused.message)
        return _list(request, form, status=refused.status)
    return redirect("import_job", job.pk)


def _list(request: HttpRequest, form: ImportForm, *, status: int = 200) -> HttpResponse:
    jobs = request.project.imports.select_related("by")[:SHOWN_JOBS]
    context = {"form": form, "jobs": jobs}
    return page(request, "annotation/imports.html", context, status=status)


@require_safe
@needs(Role.MANAGER, by_import)
def import_job(request: HttpRequest, pk: int) -> HttpResponse:
    """Before it starts the preview, by the kind and mapping of the address; then the job."""
    job = _job(pk)
    if job.state == ImportJob.State.PREVIEW:
        return _preview(request, job)
    return page(request, "annotation/import_job.html", _context(job))


def _preview(
    request: HttpRequest,
    job: ImportJob,
    *,
    refusal: Refused | None = None,
    status: int = 200,
) -> HttpResponse:
    data = request.POST if request.method == "POST" else request.GET
    kind = data.get("kind", "")
    if kind not in ImportJob.Kind.values:
        kind = job.kind
    try:
        plain = import_jobs.preview(job, kind, {})
        mapping = import_jobs.mapping_of(kind, data, plain.columns)
        found = import_jobs.preview(job, kind, mapping) if mapping else plain
        found.columns = plain.columns
    except (ImportRefused, OSError) as error:
        fault = getattr(error, "message", "") or told(error)
        context = {"job": job, "fault": fault, "refusal": refusal}
        return page(request, "annotation/import_preview.html", context, status=422)
    context = {
        "job": job,
        "kind": kind,
        "found": found,
        "formats": [words.READ_AS[name] for name in found.formats],
        "form": MappingForm(plain.columns, mapping),
        "mapping": mapping,
        "rows": [_shown(place, item) for place, item in found.items],
        "refusal": refusal,
    }
    return page(request, "annotation/import_preview.html", context, status=status)


def _shown(place: tuple[str, int], item: Any) -> dict[str, Any]:
    part, line = shown(place[0]), place[1]
    if isinstance(item, BadRow):
        return {"part": part, "line": line, "fault": str(item)}
    return {"part": part, "line": line, "texts": import_jobs.text_of(item)}


@require_safe
@needs(Role.MANAGER, by_import)
def import_status(request: HttpRequest, pk: int) -> HttpResponse:
    """What changes while it runs; 304 if nothing did, 286 once it is over."""
    job = _job(pk)
    etag = _etag(job)
    if job.is_active and request.headers.get("If-None-Match") == etag:
        response: HttpResponse = HttpResponseNotModified()
    else:
        status = 200 if job.is_active or not request.htmx else STOP_POLLING
        context = _context(job)
        response = page(
            request, "annotation/import_job.html#live", context, status=status
        )
    response["ETag"] = etag
    response["Cache-Control"] = "private, no-cache"
    response["Vary"] = "Cookie, HX-Request, Accept-Language"
    return response


def _etag(job: ImportJob) -> str:
    seen = (job.pk, job.state, job.items_done, job.epoch, job.share, get_language())
    return f'"{hashlib.sha256(repr(seen).encode()).hexdigest()[:20]}"'


@require_POST
@needs(Role.MANAGER, by_import)
def start_import(request: HttpRequest, pk: int) -> HttpResponse:
    """Start what was looked at, or go on with what was stopped."""
    job = _job(pk)
    kind = request.POST.get("kind", "")
    if kind not in ImportJob.Kind.values:
        kind = job.kind
    try:
        mapping: dict[str, str] = {}
        if job.state == ImportJob.State.PREVIEW:
            columns = import_jobs.preview(job, kind, {}).columns
            mapping = import_jobs.mapping_of(kind, request.POST, columns)
        import_jobs.start(job, kind, mapping)
    except Refused as refused:
        if job.state == ImportJob.State.PREVIEW:
            return _preview(request, job, refusal=refused, status=refused.status)
        return _refused(request, job, refused)
    return redirect("import_job", pk)


@require_POST
@needs(Role.MANAGER, by_import)
def cancel_import(request: HttpRequest, pk: int) -> HttpResponse:
    job = _job(pk)
    try:
        import_jobs.cancel(job)
    except ImportState as refused:
        return _refused(request, job, refused)
    if job.state == ImportJob.State.PREVIEW:
        return redirect("imports", request.project.slug)
    return redirect("import_job", pk)


def _refused(request: HttpRequest, job: ImportJob, refused: Refused) -> HttpResponse:
    context = _context(_job(job.pk)) | {"refusal": refused}
    return page(request, "annotation/import_job.html", context, status=refused.status)


@require_safe
@needs(Role.MANAGER, by_import)
def import_faults(request: HttpRequest, pk: int) -> StreamingHttpResponse:
    """The bad rows as CSV: file, line, what is wrong."""
    job = _job(pk)

    class Line:
        def write(self, text: str) -> str:
            return text

    writer = csv.writer(Line())

    def lines():
        yield "\ufeff" + writer.writerow(["file", "line", "reason"])
        for fault in paged(job.faults.all(), "number"):
            cells = (fault.part, str(fault.line), retold(fault.reason))
            yield writer.writerow([defused(cell) for cell in cells])

    name = f"{job.project.slug}-import-{job.pk}-bad-lines.csv"
    return StreamingHttpResponse(
        lines(),
        content_type=TYPES["csv"],
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _job(pk: int) -> ImportJob:
    return get_object_or_404(ImportJob.objects.select_related("project", "by"), pk=pk)


def _context(job: ImportJob) -> dict[str, Any]:
    faults = list(job.faults.all()[:SHOWN_FAULTS])
    return {
        "job": job,
        "faults": faults,
        "n_unlisted": max(0, job.rejected - len(faults)),
        "percent": int(100 * job.share),
        "has_parts": any(fault.part for fault in faults),
    }
