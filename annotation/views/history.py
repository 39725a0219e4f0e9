"""My history: one annotator's own judgments in a project, newest first, with undo."""

from typing import Any

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from annotation import project_settings, queries, trust
from annotation.access import needs
from annotation.models import Role
from annotation.pages import completion_html, message_turns, page
from annotation.words import verdict_words

PAGE_SIZE = 25
UNSEEN = [
    f"lease__{side}__{name}"
    for side in ("first", "second")
    for name in ("prompt_token_ids", "token_ids", "logprobs", "sampling")
]


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
    own = project_settings.of(request.project)
    context: dict[str, Any] = {"judgments": judgments}
    if own.gold_rate or own.repeat_rate:
        context["told"] = trust.told_to(request.project, request.user)
    return page(request, "annotation/history.html", context)
