"""Gold: the pairs whose answer is known, and what they and repeats say of annotators."""

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_http_methods, require_POST

from annotation import annotators, figures, gold, project_settings, trust
from annotation.access import needs, user_of
from annotation.errors import NotYours, Refused
from annotation.forms import GoldImportForm
from annotation.models import GoldItem, Judgment, PreferencePair, Project, Role
from annotation.pages import completion_html, message_turns, page

PAGE_SIZE = 20
SHOWN_REJECTED = 200


@require_http_methods(["GET", "HEAD", "POST"])
@needs(Role.MANAGER)
def gold_items(request: HttpRequest, slug: str) -> HttpResponse:
    if request.method != "POST":
        return _list(request, GoldImportForm())
    form = GoldImportForm(request.POST, request.FILES)
    if not form.is_valid():
        return _list(request, form, status=422)
    try:
        report = gold.import_gold(request.project, request.user, form.stream())
    except Refused as error:
        form.add_error(None, error.message)
        return _list(request, form, status=422)
    return _list(request, GoldImportForm(), report=report)


def _list(
    request: HttpRequest, form: GoldImportForm, *, report=None, status: int = 200
) -> HttpResponse:
    own = project_settings.of(request.project)
    items = Paginator(gold.items(request.project), PAGE_SIZE).get_page(
        request.GET.get("page")
    )
    for item in items:
        item.turns = message_turns(item.prompt.messages)
        item.a_html, item.b_html = completion_html(item.a), completion_html(item.b)
    counted = figures.of(request.project, "annotators")
    context = {
        "form": form,
        "figures": counted,
        "report": report,
        "rejected": report.rejected[:SHOWN_REJECTED] if report else [],
        "n_rejected": len(report.rejected) + report.rejected_more if report else 0,
        "items": items,
        "people": _people(request, counted),
        "own": own,
        "floor": round(100 * own.gold_floor),
        "latest": trust.WINDOWS * own.gold_least,
    }
    return page(request, "annotation/gold.html", context, status=status)


def _people(request: HttpRequest, counted: figures.Figures) -> list[dict[str, Any]]:
    """Whoever has judged, those below the floor or with waiting judgments first."""
    known = trust.checks(request.project)
    judged = annotators.judged(counted) or {}
    me = request.user
    people = [
        {
            "username": name,
            "judgments": judged.get(name),
            "checks": known.get(name, trust.NOTHING),
            "may_let_count": name != me.get_username()
            or trust.may_let_count(request.project, me, me),
        }
        for name in [*judged, *sorted(known.keys() - judged.keys())]
    ]
    return sorted(
        people,
        key=lambda row: (not row["checks"].is_below, -row["checks"].waiting),
    )


def _of_gold(pk: int) -> Project:
    item = get_object_or_404(GoldItem.objects.select_related("project"), pk=pk)
    return item.project


@require_POST
@needs(Role.MANAGER, _of_gold)
def retire_gold(request: HttpRequest, pk: int) -> HttpResponse:
    item = get_object_or_404(GoldItem, pk=pk)
    gold.retire(item, request.user, was_wrong="was_wrong" in request.POST)
    messages.success(request, _("Retired: it is no longer handed out."))
    return _back_to("gold", request)


def _of_pair(pk: int) -> Project:
    pair = get_object_or_404(PreferencePair.objects.select_related("project"), pk=pk)
    return pair.project


@require_POST
@needs(Role.REVIEWER, _of_pair)
def pair_as_gold(request: HttpRequest, pk: int) -> HttpResponse:
    pairs = PreferencePair.objects.select_related(
        "project", "prompt", "chosen", "rejected", "decision__comparison"
    )
    return _made_gold(request, "pairs", gold.from_pair, get_object_or_404(pairs, pk=pk))


def _of_judgment(pk: UUID) -> Project:
    judgment = get_object_or_404(Judgment.objects.select_related("project"), pk=pk)
    return judgment.project


@require_POST
@needs(Role.REVIEWER, _of_judgment)
def judgment_as_gold(request: HttpRequest, pk: UUID) -> HttpResponse:
    judgments = Judgment.objects.select_related(
        "project", "comparison__prompt", "comparison__a", "comparison__b"
    )
    judgment = get_object_or_404(judgments, pk=pk)
    return _made_gold(request, "history", gold.from_judgment, judgment)


def _made_gold(request: HttpRequest, back: str, make, what) -> HttpResponse:
    try:
        make(what, request.user, request.POST.get("explanation", ""))
    except Refused as error:
        messages.error(request, error.message)
    else:
        messages.success(request, _("This pair is gold now."))
    return _back_to(back, request)


@require_POST
@needs(Role.REVIEWER)
def let_count(request: HttpRequest, slug: str, username: str) -> HttpResponse:
    """Somebody has looked at the person's waiting judgments and lets them count."""
    annotator = user_of(request.project, username)
    try:
        count = trust.let_count(request.project, annotator, request.user)
    except NotYours as error:
        return page(request, "403.html", {"said": error.message}, status=error.status)
    done = ngettext(
        "%(count)d judgment of %(name)s counts now.",
        "%(count)d judgments of %(name)s count now.",
        count,
    )
    messages.success(request, done % {"count": count, "name": username})
    # The page with the figures is for managers.
    back = "gold" if request.role == Role.MANAGER else "project"
    return redirect(back, request.project.slug)


def _back_to(name: str, request: HttpRequest) -> HttpResponse:
    """To the same page of the list that the form stood on."""
    query = QueryDict(request.POST.get("back", "")).urlencode()
    url = reverse(name, args=[request.project.slug])
    return redirect(f"{url}?{query}" if query else url)
