"""How well the judgments of a project can be trusted."""

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from annotation import project_settings
from annotation.access import needs
from annotation.models import Role
from annotation.pages import page
from annotation.quality import agreement, bias
from annotation.weighing import newest_with_weights


@require_safe
@needs(Role.REVIEWER)
def quality(request: HttpRequest, slug: str) -> HttpResponse:
    own = project_settings.of(request.project)
    context = {
        "agreement": agreement(request.project),
        "bias": bias(request.project),
        "quota": own.quota,
        "weighs": own.decide_by == "weighted",
    }
    if context["weighs"]:
        context["weighing"] = newest_with_weights(request.project)
    return page(request, "annotation/quality.html", context)
