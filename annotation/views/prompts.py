"""Prompts: the list. They come in by the import page (imports.py)."""

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from annotation import figures
from annotation.access import needs
from annotation.models import Role
from annotation.pages import page

PAGE_SIZE = 50


@require_safe
@needs(Role.MANAGER)
def prompts(request: HttpRequest, slug: str) -> HttpResponse:
    rows = request.project.prompts.filter(is_gold=False).order_by("-id")
    known = figures.of(request.project, "totals")
    context = {
        "figures": known,
        "totals": known["totals"],
        "prompts": Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page")),
    }
    return page(request, "annotation/prompts.html", context)
