"""One prompt: what was asked, and what became of each two answers to it."""

from typing import Any

from django.core.paginator import Paginator
from django.db.models import Prefetch
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_safe

from annotation.access import needs
from annotation.models import Comparison, Decision, Role
from annotation.models.comparisons import unseen
from annotation.pages import completion_html, message_turns, page

PAGE_SIZE = 10
BADGES = {"winner": "good", "both_bad": "bad", "split": "warn"}


@require_safe
@needs(Role.REVIEWER)
def prompt(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Decided comparisons, the newest first; whose verdicts they were is not shown.

    Undecided ones stay hidden: a reviewer may judge them, too.
    """
    found = get_object_or_404(request.project.prompts, pk=pk)
    rows = (
        Comparison.objects.filter(
            prompt=found, purpose=Comparison.Purpose.TRAIN, state="decided"
        )
        .select_related("a", "b", "policy")
        .defer(*unseen("a", "b", also=["sampling"]))
        .prefetch_related(
            Prefetch("decisions", Decision.objects.filter(superseded_at=None))
        )
        .order_by("-id")
    )
    shown = Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page"))
    context = {
        "prompt": found,
        "turns": message_turns(found.messages),
        "comparisons": shown,
        "rows": [_row(comparison) for comparison in shown],
    }
    return page(request, "annotation/prompt.html", context)


def _row(comparison: Comparison) -> dict[str, Any]:
    decision = next(iter(comparison.decisions.all()), None)
    winner = decision.winner_id if decision else None
    return {
        "decision": decision,
        "badge": BADGES.get(decision.outcome, "") if decision else "",
        "policy": comparison.policy,
        "made": comparison.created_at,
        "answers": [
            (completion_html(answer), answer.pk == winner)
            for answer in (comparison.a, comparison.b)
        ],
    }
