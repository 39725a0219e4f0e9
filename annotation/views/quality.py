"""How well the judgments of a project can be trusted."""

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from annotation import project_settings
from annotation.access import needs
from annotation.models import Role
from annotation.pages import page
from annotation.quality import agreement, bias


@require_safe
@needs(Role.REVIEWER)
def quality(request: HttpRequest, slug: str) -> HttpResponse:
    context = {
        "agreement": agreement(request.project),
        "bias": bias(request.project),
        "quota": project_settings.of(request.project).quota,
    }
    return page(request, "annotation/quality.html", context)
