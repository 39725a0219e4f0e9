"""Compare: one pair on the desk, and the acts on it: judge, skip, undo.

Every act answers with the next pair in the same request: as the partial `#pair` for
htmx, by a redirect for a plain form.
"""

from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from annotation import desk, judging, leasing
from annotation.access import needs
from annotation.errors import InvalidJudgment, Refused
from annotation.forms import JudgmentForm
from annotation.models import Judgment, Lease, Project, Role
from annotation.pages import page, safe_html
from annotation.words import verdict_words

TEMPLATE = "annotation/compare.html"


def by_lease(key: UUID, **_others: object) -> Project:
    return get_object_or_404(Lease.objects.select_related("project"), pk=key).project


def by_judgment(pk: UUID, **_others: object) -> Project:
    rows = Judgment.objects.select_related("project")
    return get_object_or_404(rows, pk=pk).project


@require_safe
@never_cache
@needs(Role.ANNOTATOR)
def compare(request: HttpRequest, slug: str) -> HttpResponse:
    """The pair waiting for this annotator; htmx asks again while there is none."""
    lease = leasing.take_lease(request.project, request.user)
    reasons = [] if lease else desk.waited_for(request.project)
    if request.htmx and lease is None and request.GET.get("shown") == " ".join(reasons):
        # Nothing has changed: nothing is swapped, so nothing flickers or is read out.
        return HttpResponse(status=204)
    return _show(request, lease, reasons=reasons)


@require_POST
@needs(Role.ANNOTATOR, by_lease)
def judge(request: HttpRequest, key: UUID) -> HttpResponse:
    lease = leasing.lease_for(request.user, key)
    form = JudgmentForm(request.POST)
    if not form.is_valid():
        return _show(request, lease, form=form, status=422)
    try:
        submitted = judging.submit_judgment(lease, **form.cleaned_data)
    except InvalidJudgment as error:
        form.add_error(
            error.field if error.field in form.fields else None, error.message
        )
        return _show(request, lease, form=form, status=422)
    except Refused as error:
        return _over(request, form, error)
    words = verdict_words(submitted.judgment.verdict)
    return _next(request, _("Saved: %(verdict)s") % {"verdict": words})


@require_POST
@needs(Role.ANNOTATOR, by_lease)
def skip(request: HttpRequest, key: UUID) -> HttpResponse:
    """What was typed as a comment is kept as the reason."""
    lease = leasing.lease_for(request.user, key)
    form = JudgmentForm(request.POST)
    form.is_valid()
    try:
        leasing.skip(lease, str(form.cleaned_data.get("comment") or "")[:200])
    except Refused as error:
        return _over(request, form, error)
    return _next(request, _("Skipped"))


@require_POST
@needs(Role.ANNOTATOR, by_judgment)
def undo(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Take a judgment back: its pair returns to the desk, to be judged anew."""
    rows = Judgment.objects.select_related("project", "comparison")
    judgment = get_object_or_404(rows, pk=pk, annotator=request.user)
    try:
        lease = judging.undo(judgment)
    except Refused as error:
        return _over(request, JudgmentForm(request.POST), error)
    if request.htmx:
        return _show(request, lease, done=_("Undone"), typed=_typed_before(judgment))
    return redirect("compare", request.project.slug)


def _next(request: HttpRequest, done: str) -> HttpResponse:
    if not request.htmx:
        return redirect("compare", request.project.slug)
    lease = leasing.take_lease(request.project, request.user)
    reasons = [] if lease else desk.waited_for(request.project)
    return _show(request, lease, reasons=reasons, done=done)


def _show(
    request: HttpRequest,
    lease: Lease | None,
    *,
    form: JudgmentForm | None = None,
    typed: desk.Typed | None = None,
    reasons: list[str] | None = None,
    done: str = "",
    status: int = 200,
) -> HttpResponse:
    context = {
        "desk": desk.lay_out(request.user, request.project, lease),
        "form": form,
        "typed": form.typed() if form else typed or desk.Typed(),
        "reasons": reasons or [],
        "done": done,
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
        return page(request, f"{TEMPLATE}#pair", context, status=status)
    context["guidelines"] = safe_html(request.project.guidelines)
    return page(request, TEMPLATE, context, status=status)


def _typed_before(judgment: Judgment) -> desk.Typed:
    return desk.Typed(
        comment=judgment.comment,
        strength=str(judgment.strength or ""),
        reasons=tuple(judgment.reasons),
    )
