"""Pairs: what came of the judgments, and why some do not train."""

from django.core.paginator import Paginator
from django.db.models import Count, Prefetch
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from annotation import queries
from annotation.access import needs
from annotation.models import PreferencePair, Role, RuleVerdict
from annotation.pages import completion_html, message_turns, page
from annotation.retelling import retold
from annotation.words import rule_words

PAGE_SIZE = 20
UNSEEN = ["prompt_token_ids", "token_ids", "logprobs", "sampling"]


@require_safe
@needs(Role.REVIEWER)
def pairs(request: HttpRequest, slug: str) -> HttpResponse:
    standing = request.project.pairs.filter(superseded_at=None)
    counts = dict(standing.order_by().values_list("state").annotate(n=Count("*")))
    state = request.GET.get("state", "")
    rows = standing.order_by("-id")
    if state in PreferencePair.State.values:
        rows = rows.filter(state=state)
    shown = Paginator(_with_content(rows), PAGE_SIZE).get_page(request.GET.get("page"))
    for pair in shown:
        pair.turns = message_turns(pair.prompt.messages)
        pair.chosen_html = completion_html(pair.chosen)
        pair.rejected_html = completion_html(pair.rejected)
        pair.told = [
            (rule_words(v.rule), retold(v.reason), v.result)
            for v in pair.verdicts.all()
            if v.result != RuleVerdict.Result.PASS
        ]
    filters = [("", _("all"), sum(counts.values()))]
    filters += [(s.value, s.label, counts.get(s, 0)) for s in PreferencePair.State]
    context = {
        "pairs": shown,
        "state": state,
        "filters": filters,
        "n_sound": queries.sound_pairs(request.project).count(),
    }
    return page(request, "annotation/pairs.html", context)


def _with_content(rows):
    unseen = [f"{side}__{name}" for side in ("chosen", "rejected") for name in UNSEEN]
    verdicts = Prefetch("verdicts", RuleVerdict.objects.order_by("id"))
    return (
        rows.select_related("prompt", "chosen", "rejected")
        .defer(*unseen)
        .prefetch_related(verdicts)
    )
