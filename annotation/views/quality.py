"""How well the judgments of a project can be trusted, and what a round would learn."""

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from annotation import figures, project_settings
from annotation.access import needs
from annotation.annotators import for_reader, visible
from annotation.models import Role
from annotation.pages import page
from annotation.sways import NOBODYS, flags, is_beyond
from annotation.weighing import newest_with_weights
from annotation.words import SWAYS


@require_safe
@needs(Role.REVIEWER)
def quality(request: HttpRequest, slug: str) -> HttpResponse:
    """Of single annotators a manager sees all, a reviewer what is about themself."""
    told = () if request.role == Role.MANAGER else ("told",)
    known = figures.of(request.project, "agreement", "bias", "rounds", *told)
    rounds = known["rounds"]

    def mine(found: list[dict]) -> list[dict]:
        return visible(found, request.role, request.user)

    own = project_settings.of(request.project)
    context = {
        "figures": known,
        "sways": SWAYS,
        **for_reader(known, request.role, request.user),
        "past": rounds["past"] if rounds else [],
        "quota": own.quota,
        "weighs": own.decide_by == "weighted",
    }
    if rounds:
        coming = rounds["next"]
        seen = mine(coming["annotators"])
        context["coming"] = coming | {
            "annotators": seen,
            "flags": [flag for flag in coming["flags"] if not flag["username"]],
        }
        context["n_standing_out"] = len(
            {flag["username"] for row in seen for flag in flags(row, row["username"])}
        )
    everybody, coming = context["bias"], context.get("coming")
    reports = [coming or NOBODYS, everybody or NOBODYS]
    context["compared"] = [
        (label, about, [(r[sway], is_beyond(sway, r[sway])) for r in reports])
        for sway, (label, about) in SWAYS.items()
    ]
    if context["weighs"]:
        context["weighing"] = weighing = newest_with_weights(request.project)
        context["weights"] = [
            weight
            for weight in (weighing.weights.all() if weighing else ())
            if request.role == Role.MANAGER or weight.annotator_id == request.user.pk
        ]
    return page(request, "annotation/quality.html", context)
