"""My history: one annotator's own judgments in a project, newest first, with undo."""

from typing import Any

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from annotation import project_settings, queries, trust
from annotation.access import needs
from annotation.diffing import word_diff
from annotation.judging import criteria_seen
from annotation.models import Role
from annotation.models.comparisons import unseen
from annotation.pages import completion_html, message_turns, page
from annotation.words import criterion_words, strength_words, verdict_words

PAGE_SIZE = 25
UNSEEN = unseen("lease__first", "lease__second", also=["sampling"])


@require_safe
@needs(Role.ANNOTATOR)
def history(request: HttpRequest, slug: str) -> HttpResponse:
    mine = queries.my_history(request.project, request.user).defer(None).defer(*UNSEEN)
    judgments = Paginator(mine, PAGE_SIZE).get_page(request.GET.get("page"))
    for judgment in judgments:
        lease = judgment.lease
        judgment.words = verdict_words(judgment.verdict)
        judgment.turns = message_turns(judgment.comparison.prompt.messages)
        judgment.first_html = completion_html(lease.first)
        judgment.second_html = completion_html(lease.second)
        judgment.strength_words = strength_words(judgment.strength)
        judgment.criteria_words = [
            (name, criterion_words(side))
            for name, side in criteria_seen(judgment).items()
        ]
        if judgment.edited is not None:
            improved = lease.first if judgment.verdict == "first" else lease.second
            judgment.edit = word_diff(improved.text, judgment.edited.text)
    own = project_settings.of(request.project)
    context: dict[str, Any] = {"judgments": judgments}
    if own.gold_rate or own.repeat_rate:
        context["told"] = trust.told_to(request.project, request.user)
    return page(request, "annotation/history.html", context)
