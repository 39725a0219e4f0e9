"""Rounds: the list with its start form, one round live, cancel and resume.

Everything shown is in the database; a page polls (htmx, ETag) while its round runs.
"""

import hashlib
import json
from typing import Any

from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseNotModified,
    StreamingHttpResponse,
)
from django.shortcuts import redirect
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.http import (
    require_http_methods,
    require_POST,
    require_safe,
)

from annotation import downloads, figures
from annotation.access import needs
from annotation.errors import ExportRefused
from annotation.models import Project, Role
from annotation.pages import page
from annotation.queries import count_sound
from annotation.words import rule_words
from inference.queries import channel_policies, policy_state, stopped_on_purpose
from training import queries, recipes, rounds
from training.errors import RoundRefused
from training.forms import RoundForm
from training.models import TrainingRound
from training.promotion import is_waiting_for_auto_deploy
from training.reading import (
    read_curves,
    read_supervised,
    trainer_remarks,
    warned_of,
)

STOP_POLLING = 286
"""htmx ends its polling on this status and still swaps the answer."""

FEW_PAIRS = 15
"""Below this our trials moved the policy, but little and not surely."""


EXPORTED_AS = [("trl", "TRL"), ("openai", "OpenAI"), ("parquet", "Parquet")]
"""On a round's page; the export page has all formats."""


@require_safe
@needs(Role.REVIEWER)
def _list(request: HttpRequest, slug: str) -> HttpResponse:
    return _rounds_page(request)


@require_POST
@needs(Role.MANAGER)
def _start(request: HttpRequest, slug: str) -> HttpResponse:
    form = _form(request.project, request.POST)
    if not form.is_valid():
        return _rounds_page(request, form=form, status=422)
    try:
        training_round = rounds.start_round(
            request.project, request.user, **form.asked()
        )
    except RoundRefused as refusal:
        return _rounds_page(request, form=form, refusal=refusal, status=refusal.status)
    return redirect("round", training_round.pk)


@require_http_methods(["GET", "HEAD", "POST"])
def round_list(request: HttpRequest, slug: str) -> HttpResponse:
    """Reviewers read the list, managers start rounds."""
    view = _start if request.method == "POST" else _list
    return view(request, slug=slug)


round_list.needed_role = Role.REVIEWER  # type: ignore[attr-defined]


def _form(project: Project, data: Any = None) -> RoundForm:
    return RoundForm(data, policies=channel_policies(project.channel))


def _rounds_page(
    request: HttpRequest,
    *,
    form: RoundForm | None = None,
    refusal: RoundRefused | None = None,
    status: int = 200,
) -> HttpResponse:
    project = request.project
    context = {
        "rounds": list(queries.rounds_of(project)[:200]),
        "active": queries.active_round(project),
        "refusal": refusal,
        "funnel": [_in_words(step) for step in refusal.funnel] if refusal else [],
    }
    if request.role == Role.MANAGER:
        context["form"] = form or _form(project)
        context["ways"] = _ways(project, form)
        if not context["active"]:
            context["warnings"] = _warnings(project)
    return page(request, "training/rounds.html", context, status=status)


def _warnings(project: Project) -> list[dict[str, Any]]:
    """What stands out in the new pairs of all annotators, before they train."""
    part = figures.of(project, "rounds")["rounds"]
    flags = part["next"]["flags"] if part else []
    return [flag for flag in flags if not flag["username"]]


def _ways(project: Project, form: RoundForm | None) -> list[dict[str, Any]]:
    """Each preset in words, with the number of pairs it would train on now."""
    words = {
        "cumulative": (
            _("From the base, on all pairs"),
            _(
                "A fresh adapter is trained on every sound pair so far, old and new."
                " Nothing is forgotten, and the result depends on the pairs alone."
            ),
        ),
        "incremental": (
            _("Onwards from the serving policy, on new pairs"),
            _(
                "The serving policy is trained further on the pairs judged since, with"
                " some earlier ones against forgetting. Quicker with many pairs; drifts"
                " further from the base with each round."
            ),
        ),
    }
    asked = form["preset"].value() if form and form.is_bound else ""
    usual = asked or recipes.usual_preset(project)
    n_sound = count_sound(project)  # Counted once for all presets.
    ways = []
    for name in recipes.PRESETS:
        label, text = words[name]
        recipe = recipes.plain_recipe(project, name)
        count = recipes.count_pairs(project, recipe, n_sound)
        ways.append(
            {
                "name": name,
                "label": label,
                "text": text,
                "count": count,
                # What has nothing to train on is not started at all.
                "is_few": 0 < count < FEW_PAIRS,
                "is_checked": name == usual,
            }
        )
    return ways


def _in_words(step: dict[str, Any]) -> dict[str, Any]:
    lost = [(rule_words(reason), number) for reason, number in step["lost"].items()]
    return step | {"lost": lost}


# --- One round -------------------------------------------------------------------------


def _round(pk: int) -> TrainingRound:
    return queries.with_counts().get(pk=pk)


@require_safe
@needs(Role.REVIEWER, queries.project_of_round)
def round_page(request: HttpRequest, pk: int) -> HttpResponse:
    return _round_page(request, _round(pk))


@require_safe
@needs(Role.REVIEWER, queries.project_of_round)
def round_status(request: HttpRequest, pk: int) -> HttpResponse:
    """What changes while the round runs; 304 if nothing did, 286 once it is over."""
    training_round = _round(pk)
    etag = _etag(request, training_round)
    is_over = not _moves(training_round)
    if not is_over and request.headers.get("If-None-Match") == etag:
        response: HttpResponse = HttpResponseNotModified()
    else:
        context = _round_context(request, training_round) | {"is_partial": True}
        status = STOP_POLLING if is_over and request.htmx else 200
        response = page(request, "training/round.html#live", context, status=status)
    response["ETag"] = etag
    response["Cache-Control"] = "private, no-cache"
    response["Vary"] = "Cookie, HX-Request, Accept-Language"
    return response


@require_safe
@needs(Role.REVIEWER, queries.project_of_round)
def export_round(request: HttpRequest, pk: int) -> HttpResponse | StreamingHttpResponse:
    """The pairs it froze, in any format; `what=dataset`: a folder with its card."""
    params = {"which": "all", **request.GET.dict()}
    within = queries.pairs_of(pk)
    try:
        if params.pop("what", "pairs") == "dataset":
            return downloads.dataset(
                request.project, params, request.role, within, user=request.user
            )
        return downloads.pairs(
            request.project, params, within, user=request.user, role=request.role
        )
    except ExportRefused as refused:
        return HttpResponse(
            refused.message, status=422, content_type="text/plain; charset=utf-8"
        )


@require_POST
@needs(Role.MANAGER, queries.project_of_round)
def cancel_round(request: HttpRequest, pk: int) -> HttpResponse:
    return _act(request, pk, rounds.cancel_round)


@require_POST
@needs(Role.MANAGER, queries.project_of_round)
def resume_round(request: HttpRequest, pk: int) -> HttpResponse:
    return _act(request, pk, rounds.resume_round)


def _act(request: HttpRequest, pk: int, act: Any) -> HttpResponse:
    training_round = _round(pk)
    try:
        act(training_round, request.user)
    except RoundRefused as refusal:
        return _round_page(request, _round(pk), refusal=refusal, status=refusal.status)
    return redirect("round", pk)


def _round_page(
    request: HttpRequest,
    training_round: TrainingRound,
    *,
    refusal: RoundRefused | None = None,
    status: int = 200,
) -> HttpResponse:
    context = _round_context(request, training_round) | {"refusal": refusal}
    return page(request, "training/round.html", context, status=status)


def _round_context(
    request: HttpRequest, training_round: TrainingRound
) -> dict[str, Any]:
    curves = queries.curves_of(training_round)
    policy = training_round.policy
    channel = request.project.channel
    return {
        "round": training_round,
        "is_moving": _moves(training_round),
        "export_formats": EXPORTED_AS,
        "silent": queries.is_silent(training_round),
        "series": json.dumps(queries.chart_series(curves)),
        "table": queries.number_table(curves),
        "remarks": [
            *read_supervised(queries.curves_of(training_round, "sft")),
            *read_curves(
                curves,
                training_round.n_pairs,
                not training_round.is_active,
                queries.held_out_count(training_round),
                warned_of(training_round.summary),
            ),
            *trainer_remarks(training_round.summary),
        ],
        "events": list(training_round.events.all()),
        "hardest": queries.hardest_pairs(training_round),
        "n_replayed": training_round.round_pairs.filter(is_replay=True).count(),
        "policy_state": policy_state(policy, channel) if policy else "",
        "vllm_stopped": _vllm_stopped(training_round),
    }


def _moves(training_round: TrainingRound) -> bool:
    """Whether its page changes by itself: also while its policy is about to be deployed."""
    return training_round.is_active or is_waiting_for_auto_deploy(training_round)


def _vllm_stopped(training_round: TrainingRound) -> str:
    return stopped_on_purpose() if training_round.is_active else ""


def _etag(request: HttpRequest, training_round: TrainingRound) -> str:
    last = training_round.events.last()
    seen = (
        training_round.pk,
        training_round.state,
        training_round.epoch,
        training_round.step,
        training_round.total_steps,
        training_round.eta_seconds,
        training_round.activity,
        training_round.cancel_requested,
        queries.is_silent(training_round),
        queries.last_steps(training_round),
        _vllm_stopped(training_round),
        last.pk if last else 0,
        request.project.channel.serving_id,
        request.role,
        get_language(),
    )
    digest = hashlib.sha256(repr(seen).encode()).hexdigest()
    return f'W/"{digest[:24]}"'
