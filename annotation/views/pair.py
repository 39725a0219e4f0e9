"""One pair: its answers, every rule's verdict, and what a reviewer may do about it."""

from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from annotation import hurrying, reviewing
from annotation.access import needs
from annotation.errors import InvalidRepair, Refused
from annotation.forms import LetThroughForm, RepairForm
from annotation.models import PreferencePair, Role, RuleVerdict
from annotation.pages import completion_html, message_turns, page
from annotation.queries import rule_label
from annotation.retelling import retold
from annotation.reviewing import pair_of
from annotation.settings_fields import param_words
from annotation.views.pairs import filtered
from annotation.words import rule_words


@require_safe
@needs(Role.REVIEWER)
def pair(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    return _show(request, pair_of(request.project, pk))


def _act(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """A reviewer's act on a pair; what is refused is said on the pair's page."""

    @require_POST
    @needs(Role.REVIEWER)
    @wraps(view)
    def acted(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
        found = pair_of(request.project, pk)
        try:
            return view(request, found)
        except Refused as error:
            messages.error(request, error.message)
            return _show(request, pair_of(request.project, pk), status=error.status)

    return acted


@_act
def let_through(request: HttpRequest, pair: PreferencePair) -> HttpResponse:
    form = LetThroughForm(request.POST)
    try:
        if form.is_valid():
            reviewing.let_through(pair, request.user, form.cleaned_data["note"])
            messages.success(request, _("The pair may train now."))
            return _to(request, pair)
    except InvalidRepair as error:
        form.add_error("note", error.message)
    return _show(request, pair, {"let_through_form": form}, status=422)


@_act
def take_back(request: HttpRequest, pair: PreferencePair) -> HttpResponse:
    reviewing.take_back(pair, request.user)
    messages.success(request, _("Taken back: the rules count again."))
    return _to(request, pair)


@_act
def repair(request: HttpRequest, pair: PreferencePair) -> HttpResponse:
    form = RepairForm(request.POST)
    try:
        if form.is_valid():
            made = reviewing.repair(pair, request.user, **form.cleaned_data)
            messages.success(
                request, _("Repaired. The new pair is being checked by the rules.")
            )
            return _to(request, made)
    except InvalidRepair as error:
        form.add_error(error.field, error.message)
    except Refused as error:
        # What was typed stays on the page, though there is nothing left to repair.
        messages.error(request, error.message)
        now = pair_of(request.project, pair.pk)
        return _show(request, now, {"repair_form": form}, status=error.status)
    return _show(request, pair, {"repair_form": form}, status=422)


def _to(request: HttpRequest, pair: PreferencePair) -> HttpResponse:
    url = reverse("pair", args=[request.project.slug, pair.pk])
    kept = _filter(request)
    return redirect(f"{url}?{urlencode(kept)}" if kept else url)


def _filter(request: HttpRequest) -> dict[str, str]:
    """The list that the pair was opened from, carried along to step through it."""
    return {
        name: request.GET[name] for name in ("state", "rule") if request.GET.get(name)
    }


def _show(
    request: HttpRequest,
    pair: PreferencePair,
    context: dict[str, Any] | None = None,
    status: int = 200,
) -> HttpResponse:
    kept = _filter(request)
    others = filtered(request.project, kept.get("state", ""), kept.get("rule", ""))
    older = others.filter(pk__lt=pair.pk).order_by("-pk").values_list("pk", flat=True)
    verdicts = [
        {
            "words": rule_words(verdict.rule),
            "label": rule_label(verdict.rule),
            "verdict": verdict,
            "reason": retold(verdict.reason),
            "params": param_words(verdict.params),
        }
        for verdict in pair.verdicts.order_by("id")
    ]
    passed = RuleVerdict.Result.PASS
    words = list(pair.let_throughs.select_related("by", "taken_back_by"))
    for word in words:
        word.in_words = [rule_words(rule) for rule in word.rules]
    texts = {"chosen": pair.chosen.text, "rejected": pair.rejected.text}
    may_change = not (pair.frozen_at or pair.superseded_at)
    hurried = hurrying.of_pairs(request.project, [pair], request.role, request.user)
    shared = {
        "pair": pair,
        "hurried": hurried.get(pair.pk),
        "turns": message_turns(pair.prompt.messages),
        "answers": [
            ("chosen", _("Chosen"), completion_html(pair.chosen), pair.chosen),
            ("rejected", _("Rejected"), completion_html(pair.rejected), pair.rejected),
        ],
        "objections": [v for v in verdicts if v["verdict"].result != passed],
        "passed": [v for v in verdicts if v["verdict"].result == passed],
        "let_throughs": words,
        "is_let_through": any(word.taken_back_at is None for word in words),
        "may_change": may_change,
        "is_waiting": may_change and pair.state == PreferencePair.State.UNCHECKED,
        "is_due": may_change and pair.is_due,
        "let_through_form": LetThroughForm(),
        "repair_form": RepairForm(initial=texts),
        "older": older.first(),
        "kept": f"?{urlencode(kept)}" if kept else "",
    }
    return page(
        request, "annotation/pair.html", shared | (context or {}), status=status
    )
