"""The adjudication queue: one comparison that judgments could not decide, and the acts on it.

Every act answers with the next one in the same request: as the partial `#review` for
htmx, by a redirect for a plain form.
"""

from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from annotation import adjudicating, project_settings, review_desk
from annotation.access import needs
from annotation.errors import InvalidJudgment, Refused
from annotation.forms import ReviewForm
from annotation.models import Comparison, Decision, Role
from annotation.pages import page, safe_html

TEMPLATE = "annotation/review.html"


@require_safe
@needs(Role.REVIEWER)
def review(request: HttpRequest, slug: str) -> HttpResponse:
    """The next comparison; `?after=ID` passes that one by, `?at=ID` asks for it."""
    at, after = (_number(request.GET.get(name)) for name in ("at", "after"))
    comparison = adjudicating.take(request.project, request.user, at=at, after=after)
    return _show(request, comparison)


@require_POST
@needs(Role.REVIEWER)
def settle(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    form = ReviewForm(request.POST)
    if not form.is_valid():
        return _again(request, pk, form)
    try:
        decision = adjudicating.settle(
            request.project, pk, request.user, **form.cleaned_data
        )
    except InvalidJudgment as error:
        form.add_error(error.field, error.message)
        return _again(request, pk, form)
    except Refused as error:
        return _over(request, form, error)
    if not request.htmx:
        return redirect(_address(request, after=pk))
    comparison = adjudicating.take(request.project, request.user, after=pk)
    done = _("Decided: %(verdict)s") % {
        "verdict": review_desk.decided_words(decision, request.user)
    }
    return _show(request, comparison, done=done)


@require_POST
@needs(Role.REVIEWER)
def undo(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Take a decision back: its comparison returns to the desk, with what was typed."""
    try:
        undone = adjudicating.undo(
            request.project, pk, request.user, is_manager=request.role == Role.MANAGER
        )
    except Refused as error:
        return _over(request, ReviewForm(request.POST), error)
    if not request.htmx:
        return redirect(_address(request, at=pk))
    comparison = adjudicating.take(request.project, request.user, at=pk)
    typed = None
    if comparison is not None and comparison.pk == pk:
        typed = {"note": undone.note, "category": undone.category}
    return _show(request, comparison, typed=typed, done=_("Undone"))


def _again(request: HttpRequest, pk: int, form: ReviewForm) -> HttpResponse:
    comparison = adjudicating.take(request.project, request.user, at=pk)
    return _show(request, comparison, form=form, typed=_typed(form), status=422)


def _show(
    request: HttpRequest,
    comparison: Comparison | None,
    *,
    form: ReviewForm | None = None,
    typed: dict[str, Any] | None = None,
    done: str = "",
    status: int = 200,
) -> HttpResponse:
    names = _wants_names(request)
    desk = review_desk.lay_out(request.project, request.user, comparison, names=names)
    context = {
        "desk": desk,
        "names": names,
        "form": form,
        "typed": typed or {},
        "done": done,
        "categories": [
            (value, label, key)
            for (value, label), key in zip(
                Decision.Category.choices, "34567", strict=True
            )
        ],
    }
    return _answer(request, context, status)


def _over(request: HttpRequest, form: ReviewForm, error: Refused) -> HttpResponse:
    """It came too late or is another's: say why, and give back what was typed."""
    context = {
        "desk": review_desk.lay_out(request.project, request.user, None),
        "names": _wants_names(request),
        "over": error.message,
        "typed": _typed(form),
    }
    return _answer(request, context, error.status)


def _answer(request: HttpRequest, context: dict[str, Any], status: int) -> HttpResponse:
    if request.htmx:
        return page(request, f"{TEMPLATE}#review", context, status=status)
    context["guidelines"] = safe_html(request.project.guidelines)
    context["own"] = project_settings.of(request.project)
    context["in_review"] = context["desk"].left
    return page(request, TEMPLATE, context, status=status)


def _typed(form: ReviewForm) -> dict[str, Any]:
    return {name: form.data.get(name, "") for name in ("note", "category")}


def _wants_names(request: HttpRequest) -> bool:
    """Only managers see whose judgment it was, and only when they ask."""
    asked = request.POST if request.method == "POST" else request.GET
    return request.role == Role.MANAGER and asked.get("names") == "1"


def _address(request: HttpRequest, **query: int) -> str:
    names = {"names": 1} if _wants_names(request) else {}
    address = reverse("review", args=[request.project.slug])
    return f"{address}?{urlencode(query | names)}"


def _number(given: str | None) -> int:
    """An id from the address; 0 for what is none, so a bad link shows the queue."""
    if given and given.isascii() and given.isdigit() and len(given) < 19:
        return int(given)
    return 0
