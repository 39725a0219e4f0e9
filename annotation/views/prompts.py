"""Prompts: the list. They come in by the import page (imports.py)."""

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from annotation.access import needs
from annotation.models import Role
from annotation.overview import with_figures
from annotation.pages import page

PAGE_SIZE = 50


@require_safe
@needs(Role.MANAGER)
def prompts(request: HttpRequest, slug: str) -> HttpResponse:
    rows = request.project.prompts.filter(is_gold=False).order_by("-id")
    figures = with_figures(type(request.project).objects, request.user)
    context = {
        "row": figures.get(pk=request.project.pk),
        "prompts": Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page")),
    }
    return page(request, "annotation/prompts.html", context)
