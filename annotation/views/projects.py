"""A project's overview, and making a new project."""

from datetime import timedelta

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods, require_safe

from annotation import annotators, figures, project_settings, projects
from annotation.access import at_least, may_create, needs
from annotation.errors import Refused
from annotation.forms import NewProjectForm
from annotation.models import Project, Role
from annotation.outlook import pace
from annotation.overview import other_base
from annotation.pages import page, safe_html
from annotation.retelling import retold
from annotation.words import RULES, lost_words
from inference.errors import InferenceError
from inference.queries import readiness, stopped_on_purpose, why_refused
from inference.replicas import replicas


@require_safe
@needs(Role.ANNOTATOR)
def project(request: HttpRequest, slug: str) -> HttpResponse:
    """What needs an act first; then how much, how well, by whom.

    Annotators see their own figures, reviewers the project's, managers each one's too.
    """
    is_reviewer = at_least(request.role, Role.REVIEWER)
    is_manager = request.role == Role.MANAGER
    names = ("totals", "annotators" if is_manager else "told")
    known = figures.of(request.project, *names, *(REVIEWERS if is_reviewer else ()))
    figures.put_counts(request.project, request.user, known)
    context = {
        "figures": known,
        "row": request.project,
        "guidelines": safe_html(request.project.guidelines),
    }
    if is_reviewer:
        context |= _whole(request.project, known)
    if is_manager:
        people = annotators.rows(known)
        context["people"] = annotators.with_members(people, request.project)
    elif request.project.n_mine and known["told"]:
        context["mine"] = annotators.own_row(known["told"], request.user)
    return page(request, "annotation/project.html", context)


REVIEWERS = ("agreement", "bias", "days", "funnel", "both_bad", "idle", "rounds")


def _whole(project: Project, known: figures.Figures) -> dict:
    """What reviewers and managers see of the project as a whole."""
    serving = project.channel.serving
    servers = replicas()
    why = why_refused(serving, servers)
    parts = readiness(servers)
    is_away = not any(is_ready for _name, is_ready, _detail in parts)
    context: dict = {
        "serving": serving,
        "parts": [*parts, *([(serving.name, False, why)] if why else [])],
        # Where a round stopped it on purpose, more stock is what would have helped.
        "model_away": parts[0][2]
        if is_away and not stopped_on_purpose(servers)
        else "",
        "cannot_serve": bool(why),
        "other_base": other_base(project, servers),
    }
    if known.is_pending:
        return context
    steps = [
        _with_words(step)
        for step in known["funnel"]
        # A rule that lost nothing would only lengthen the table.
        if step["lost"] or step["step"] not in RULES
    ]
    days = known["days"]
    today = days[-1]["day"]
    monday = today - timedelta(days=today.weekday())
    needed = project_settings.of(project).round_pairs
    new = known["rounds"]["next"]["pairs"]
    return context | {
        "funnel": steps,
        "most": max((step["count"] for step in steps), default=0),
        "days": days,
        "today": days[-1]["judgments"],
        "this_week": sum(d["judgments"] for d in days if d["day"] >= monday),
        "needed": needed,
        "pace": pace(
            {d["day"]: d["judgments"] for d in days},
            {d["day"]: d["pairs"] for d in days},
            needed - new,
            today,
        ),
        "unchecked": known["totals"]["unchecked"],
        "candidates": known["rounds"]["candidates"],
        "open_flags": [
            flag for flag in known["rounds"]["next"]["flags"] if not flag["username"]
        ],
    }


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def new_project(request: HttpRequest) -> HttpResponse:
    if not may_create(request.user):
        raise PermissionDenied
    form = NewProjectForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            made = projects.create_project(
                form.cleaned_data["name"],
                request.user,
                slug=form.cleaned_data["slug"],
                guidelines=form.cleaned_data["guidelines"],
            )
        except Refused as error:
            form.add_error(None, error.message)
        except InferenceError as error:
            form.add_error(None, str(error))  # The base is not on this machine.
        else:
            return redirect("prompts", made.slug)
    status = 422 if request.method == "POST" else 200
    # MODEL empty: it will be made on the starter, which knows the demo's topics alone.
    context = {"form": form, "is_on_starter": not settings.MODEL}
    return page(request, "annotation/new_project.html", context, status=status)


def _with_words(step: dict) -> dict:
    lost = [
        (lost_words(rule), number) for rule, number in step["lost"].items() if number
    ]
    # Marked where they are counted, told here: whoever counts has no reader.
    return {**step, "label": retold(step["label"]), "lost": lost}
