"""The rules of a project: changed in sight of what the change would cost."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from annotation import previewing, projects, queries
from annotation.access import needs
from annotation.errors import Refused
from annotation.models import Role
from annotation.pages import page
from annotation.retelling import retold
from annotation.settings_form import RulesForm
from annotation.words import rule_words


@require_http_methods(["GET", "HEAD", "POST"])
@needs(Role.MANAGER)
def rules(request: HttpRequest, slug: str) -> HttpResponse:
    if request.method != "POST":
        return _show(request, RulesForm(request.project))
    form = RulesForm(request.project, request.POST)
    if form.is_valid():
        try:
            projects.update_project(
                request.project, settings=form.cleaned_data["settings"]
            )
        except Refused as error:
            form.add_error(None, error.message)
        else:
            messages.success(
                request,
                _("Saved. Pairs that no round has taken are being checked again."),
            )
            return redirect("rules", slug)
    return _show(request, form, status=422)


@require_POST
@needs(Role.MANAGER)
def preview_rules(request: HttpRequest, slug: str) -> HttpResponse:
    """The preview alone for htmx; without JavaScript the page with it."""
    form = RulesForm(request.project, request.POST)
    context: dict[str, Any] = {"form": form}
    status = 422
    if form.is_valid():
        found = previewing.preview(request.project, **form.cleaned_data["settings"])
        context |= {"preview": found, "changes": _in_words(found)}
        status = 200
    if request.htmx:
        part = "annotation/rules.html#preview"
        return page(request, part, context, status=status)
    return _show(request, form, context, status=status)


def _show(
    request: HttpRequest,
    form: RulesForm,
    context: dict[str, Any] | None = None,
    status: int = 200,
) -> HttpResponse:
    counts = queries.rule_counts(request.project)
    context = {
        **(context or {}),
        "form": form,
        "counts": [(rule, rule_words(rule), n) for rule, n in counts.items()],
        "broken": [
            (rule, rule_words(rule), n) for rule, n in counts.items() if n["broke"]
        ],
    }
    return page(request, "annotation/rules.html", context, status=status)


def _in_words(found: previewing.Preview) -> list[dict[str, Any]]:
    def lines(shown: list[previewing.Line]) -> list[tuple[int, str, str]]:
        return [(line.pair, line.prompt, retold(line.reason)) for line in shown]

    return [
        {
            "words": rule_words(change.rule),
            "more": change.more,
            "fewer": change.fewer,
            "also": change.also,
            "lists": [
                ("more", change.more, lines(change.more_pairs)),
                ("fewer", change.fewer, lines(change.fewer_pairs)),
            ],
        }
        for change in found.rules
    ]
