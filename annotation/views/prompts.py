"""Prompts: the list, and the import of a file or of pasted lines with its report."""

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_http_methods

from annotation import importing
from annotation.access import needs
from annotation.errors import Refused
from annotation.forms import ImportForm
from annotation.models import Role
from annotation.overview import with_figures
from annotation.pages import page

PAGE_SIZE = 50
SHOWN_REJECTED = 200
"""Bad lines listed on the page; the count names all of them."""


@require_http_methods(["GET", "HEAD", "POST"])
@needs(Role.MANAGER)
def prompts(request: HttpRequest, slug: str) -> HttpResponse:
    if request.method == "POST":
        return _import(request)
    return _list(request, ImportForm())


def _import(request: HttpRequest) -> HttpResponse:
    """The report comes with this answer: sending the form again only adds nothing."""
    form = ImportForm(request.POST, request.FILES)
    if not form.is_valid():
        return _list(request, form, status=422)
    try:
        report = importing.import_prompts(
            request.project, form.stream(), form.chosen_format()
        )
    except Refused as error:
        form.add_error(None, error.message)
        return _list(request, form, status=422)
    return _list(request, ImportForm(), report=report)


def _list(
    request: HttpRequest, form: ImportForm, *, report=None, status: int = 200
) -> HttpResponse:
    rows = request.project.prompts.filter(is_gold=False).order_by("-id")
    figures = with_figures(type(request.project).objects, request.user)
    context = {
        "form": form,
        "report": report,
        "rejected": report.rejected[:SHOWN_REJECTED] if report else [],
        "n_rejected": len(report.rejected) + report.rejected_more if report else 0,
        "row": figures.get(pk=request.project.pk),
        "prompts": Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page")),
    }
    return page(request, "annotation/prompts.html", context, status=status)
