"""Pairs: what came of the judgments, and why some do not train."""

from urllib.parse import urlencode

from django.core.paginator import Paginator
from django.db.models import Count, Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from annotation import hurrying, queries
from annotation.access import needs
from annotation.models import PreferencePair, Project, Role, RuleVerdict
from annotation.models.comparisons import unseen
from annotation.pages import completion_html, message_turns, page
from annotation.retelling import retold
from annotation.validation import DEFAULTS
from annotation.words import rule_words

PAGE_SIZE = 20


@require_safe
@needs(Role.REVIEWER)
def pairs(request: HttpRequest, slug: str) -> HttpResponse:
    rule = request.GET.get("rule", "")
    state = request.GET.get("state", "")
    standing = filtered(request.project, "", rule)
    counts = dict(standing.order_by().values_list("state").annotate(n=Count("*")))
    n_all = sum(counts.values())
    unchecked = PreferencePair.State.UNCHECKED
    counts[unchecked] = filtered(request.project, unchecked, rule).count()
    ids = filtered(request.project, state, rule).order_by("-id").values_list("id")
    shown = Paginator(ids, PAGE_SIZE).get_page(request.GET.get("page"))
    # Of this page alone: prompts and answers would be read of all pages before it, too.
    rows = PreferencePair.objects.filter(pk__in=[pk for (pk,) in shown])
    shown.object_list = list(_with_content(rows).order_by("-id"))
    hurried = hurrying.of_pairs(request.project, shown, request.role, request.user)
    for pair in shown:
        pair.hurried = hurried.get(pair.pk)
        pair.turns = message_turns(pair.prompt.messages)
        pair.chosen_html = completion_html(pair.chosen)
        pair.rejected_html = completion_html(pair.rejected)
        pair.told = [
            (rule_words(v.rule), retold(v.reason), v.result, v.is_let_through)
            for v in pair.verdicts.all()
            if v.result != RuleVerdict.Result.PASS
        ]
    filters = [("", _("all"), n_all)]
    filters += [(s.value, s.label, counts.get(s, 0)) for s in PreferencePair.State]
    kept = {name: said for name, said in (("state", state), ("rule", rule)) if said}
    by_rule = queries.rule_counts(request.project)
    context = {
        "pairs": shown,
        "state": state,
        "rule": rule,
        "kept": f"?{urlencode(kept)}" if kept else "",
        "filters": filters,
        "rules": [
            (name, rule_words(name), n["reject"] + n["could_not_check"])
            for name, n in by_rule.items()
        ],
        "broken": [
            (name, rule_words(name), n) for name, n in by_rule.items() if n["broke"]
        ],
        "n_sound": queries.count_sound(request.project),
    }
    return page(request, "annotation/pairs.html", context)


def filtered(project: Project, state: str, rule: str) -> QuerySet[PreferencePair]:
    """Standing pairs in this state, to which this rule objects; what is not known counts
    as any. Those that are being checked again are among the unchecked ones, too."""
    rows = project.pairs.filter(superseded_at=None)
    if state == PreferencePair.State.UNCHECKED:
        rows = rows.filter(queries.WAITS_FOR_CHECK)
    elif state in PreferencePair.State.values:
        rows = rows.filter(state=state)
    if rule in DEFAULTS:
        # From the objections, which have an index: most rules have few.
        objections = RuleVerdict.objects.filter(rule=rule)
        objections = objections.exclude(result=RuleVerdict.Result.PASS)
        rows = rows.filter(pk__in=objections.values("pair"))
    return rows


def _with_content(rows):
    verdicts = Prefetch("verdicts", RuleVerdict.objects.order_by("id"))
    return (
        rows.select_related("prompt", "chosen", "rejected")
        .defer(*unseen("chosen", "rejected", also=["sampling"]))
        .prefetch_related(verdicts)
    )
