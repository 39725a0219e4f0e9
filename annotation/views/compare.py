"""Compare: one pair on the desk, and the acts on it: judge, skip, flag, undo.

Every act answers with the next pair in the same request: as the partial `#pair` for
htmx, by a redirect for a plain form.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from annotation import (
    desk,
    ending,
    judging,
    keys,
    leasing,
    preferences,
    reserving,
    showing,
    trust,
)
from annotation.access import needs, role_of
from annotation.errors import AlreadyUndone, InvalidJudgment, Refused
from annotation.forms import CRITERION, JudgmentForm
from annotation.models import Judgment, Lease, Role
from annotation.overview import waiting_for
from annotation.pages import page, safe_html
from annotation.words import verdict_words

TEMPLATE = "annotation/compare.html"
HAS_AHEAD = "X-Has-Ahead"
"""Sent by a page that holds the pair reserved ahead (static/ahead.js)."""


def on_own(find: Callable[..., Any]) -> Callable[[Callable], Callable]:
    """Decorate an act on what is the reader's own; 404 for anybody else's.

    `find(user, key)` checks membership, too, in the queries it makes anyway: judging
    is the request that must be fast. Who has been signed out comes back to the home
    page, as an act has no page of its own.
    """

    def decorate(view: Callable) -> Callable:
        @wraps(view)
        def checked(request: HttpRequest, **keys: UUID) -> HttpResponse:
            if not request.user.is_authenticated:
                return redirect_to_login(reverse("home"))
            own = find(request.user, *keys.values())
            request.project = own.project
            return view(request, own)

        checked.needed_role = Role.ANNOTATOR
        return checked

    return decorate


@require_safe
@needs(Role.ANNOTATOR)
def compare(request: HttpRequest, slug: str) -> HttpResponse:
    """The pair waiting for this annotator; htmx asks again while there is none."""
    lease = leasing.take_lease(request.project, request.user)
    reasons = [] if lease else desk.waited_for(request.project)
    if request.htmx and lease is None and request.GET.get("shown") == " ".join(reasons):
        # Nothing has changed: nothing is swapped, so nothing flickers or is read out.
        return HttpResponse(status=204)
    typed = _typed_before_undo(lease) if lease else None
    return _show(request, lease, reasons=reasons, typed=typed)


@require_POST
@needs(Role.ANNOTATOR)
def ahead(request: HttpRequest, slug: str) -> HttpResponse:
    """The pair after the one on the desk, for the page to hold; 204 where none may be.

    Written as any other pair, so nothing tells which came ahead. The page asks for it
    while the person reads, and shows it in the moment of their next pick.
    """
    if not request.htmx:
        return redirect("compare", slug)
    lease = reserving.reserve(request.project, request.user)
    return HttpResponse(status=204) if lease is None else _show(request, lease)


@require_POST
@on_own(showing.lease_for)
def judge(request: HttpRequest, lease: Lease) -> HttpResponse:
    form = JudgmentForm(request.POST, lease)
    if not form.is_valid():
        return _show(request, lease, form=form, status=422)
    try:
        if request.htmx:
            submitted, following = judging.judge_and_take(
                lease,
                request.user,
                has_ahead=HAS_AHEAD in request.headers,
                **form.submission(),
            )
        else:
            # A page of its own follows, which takes the next pair.
            submitted = judging.submit_judgment(lease, **form.submission())
            following = None
    except InvalidJudgment as error:
        form.add_error(
            error.field if error.field in form.fields else None, error.message
        )
        return _show(request, lease, form=form, status=422)
    except Refused as error:
        return _over(request, form, error)
    if submitted.judgment.undone_at:
        # A repeat after an undo: to programs the same judgment, to people no news of it.
        return _over(request, form, AlreadyUndone(ending.came_back()))
    words = verdict_words(submitted.judgment.verdict)
    done = _("Saved: %(verdict)s") % {"verdict": words}
    if not request.htmx:
        return redirect("compare", request.project.slug)
    return _next(request, following, done, submitted.judgment)


@require_POST
@on_own(showing.lease_for)
def skip(request: HttpRequest, lease: Lease) -> HttpResponse:
    """With a flag: what is wrong with the pair. All that was typed is the reason."""
    form = JudgmentForm(request.POST, lease)
    form.is_valid()
    flag = str(form.cleaned_data.get("flag") or "")
    try:
        ending.skip(lease, form.skip_reason(), flag)
    except InvalidJudgment as error:
        form.errors.clear()
        # The words that “something else” needs: their box opens, ready to be typed in.
        # Elsewhere the first of them would be keys that judge.
        needs_words = error.field == "reason" and not form.skip_reason()
        form.add_error("flag_text" if needs_words else None, error.message)
        return _show(request, lease, form=form, status=422)
    except Refused as error:
        return _over(request, form, error)
    done = _("Skipped")
    if flag:
        done = _("Flagged: %(flag)s") % {"flag": Lease.Flag(flag).label}
    if not request.htmx:
        return redirect("compare", request.project.slug)
    following = leasing.take_lease(request.project, request.user)
    return _next(request, following, done)


@require_POST
@on_own(judging.judgment_for)
def undo(request: HttpRequest, judgment: Judgment) -> HttpResponse:
    """Take a judgment back: its pair returns to the desk, to be judged anew."""
    try:
        lease = judging.undo(judgment)
    except Refused as error:
        return _over(request, JudgmentForm(request.POST), error)
    if request.htmx:
        return _show(request, lease, done=_("Undone"), typed=_typed_before(judgment))
    return redirect("compare", request.project.slug)


@require_safe
@needs(Role.ANNOTATOR)
def last_ten(request: HttpRequest, slug: str) -> HttpResponse:
    """What the desk's drawer holds, fetched when it is opened; else the history."""
    if not request.htmx:
        return redirect("history", slug)
    judgments = desk.last_ten(request.project, request.user)
    for judgment in judgments:
        judgment.words = verdict_words(judgment.verdict)
    return page(request, "annotation/_last_ten.html", {"judgments": judgments})


def _next(
    request: HttpRequest, lease: Lease | None, done: str, last: Judgment | None = None
) -> HttpResponse:
    reasons = [] if lease else desk.waited_for(request.project)
    return _show(request, lease, reasons=reasons, done=done, last=last)


def _show(
    request: HttpRequest,
    lease: Lease | None,
    *,
    form: JudgmentForm | None = None,
    typed: desk.Typed | None = None,
    reasons: list[str] | None = None,
    done: str = "",
    last: Judgment | None = None,
    status: int = 200,
) -> HttpResponse:
    typed = form.typed() if form else typed or desk.Typed()
    laid_out = desk.lay_out(request.user, request.project, lease, last)
    context = {
        "desk": laid_out,
        "form": form,
        "typed": typed,
        "criteria": [
            (name, CRITERION + name, typed.criteria.get(name, ""))
            for name in laid_out.criteria
        ],
        "flags": Lease.Flag.choices,
        "reasons": reasons or [],
        "done": done,
        # Else the button to undo would stand beside a skip, which it doesn't take back.
        "is_done_last": last is not None,
    }
    return _answer(request, context, status)


def _over(request: HttpRequest, form: JudgmentForm, error: Refused) -> HttpResponse:
    """The act came too late or twice: say why, and give back what was typed."""
    context = {
        "desk": desk.lay_out(request.user, request.project, None),
        "over": error.message,
        "typed": form.typed(),
    }
    return _answer(request, context, error.status)


def _answer(request: HttpRequest, context: dict, status: int) -> HttpResponse:
    if request.htmx:
        # The page around it knows the reader's own keys and puts them on the buttons.
        context |= _with_keys(keys.defaults(), context["desk"])
        return page(request, f"{TEMPLATE}#pair", context, status=status)
    if not hasattr(request, "role"):
        request.role = role_of(request.user, request.project)
    own = preferences.of(request.user)
    own_keys = keys.keys_of(own.keys)
    context |= _with_keys(own_keys, context["desk"]) | {
        "guidelines": safe_html(request.project.guidelines),
        "preferences": own,
        "keys_encoded": urlencode(own_keys),
        "acts": preferences.acts_in_words(
            own, context["desk"], bool(request.project.guidelines)
        ),
        "days": desk.days_in_a_row(request.project, request.user),
        "is_told": trust.is_told(request.project, request.user),
        "waiting": waiting_for(request.project, request.user),
    }
    return page(request, TEMPLATE, context, status=status)


def _with_keys(own: dict[str, str], laid_out: desk.Desk) -> dict[str, Any]:
    """The keys by act, and the reasons with theirs; those after the ninth have none."""
    acts = [*keys.REASONS, *[""] * len(laid_out.ask_reasons)]
    chips = [
        (reason, act, own.get(act, ""))
        for reason, act in zip(laid_out.ask_reasons, acts, strict=False)
    ]
    return {"keys": own, "reason_chips": chips}


def _typed_before_undo(lease: Lease) -> desk.Typed | None:
    """What the judgment had that was undone last, where its pair is on the desk again.

    A page opened anew shows it as the answer to an undo does; what is kept on the
    person's device since (static/compare.js) goes before it.
    """
    undone = Judgment.objects.filter(
        comparison=lease.comparison_id,
        annotator=lease.annotator_id,
        undone_at__lte=lease.created_at,
    ).select_related("edited", "lease")
    judgment = undone.order_by("-undone_at").first()
    return _typed_before(judgment) if judgment else None


def _typed_before(judgment: Judgment) -> desk.Typed:
    edited = judgment.edited.text if judgment.edited else ""
    return desk.Typed(
        comment=judgment.comment,
        strength=str(judgment.strength or ""),
        reasons=tuple(judgment.reasons),
        criteria=judging.criteria_seen(judgment),
        **({f"edited_{judgment.verdict}": edited} if edited else {}),
    )
