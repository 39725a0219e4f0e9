"""A project's overview, and making a new project."""

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods, require_safe

from annotation import projects, queries
from annotation.access import at_least, may_create, needs
from annotation.errors import Refused
from annotation.forms import NewProjectForm
from annotation.models import Project, Role
from annotation.overview import member_counts, other_base, with_figures
from annotation.pages import page, safe_html
from annotation.words import RULES, lost_words
from inference.queries import readiness


@require_safe
@needs(Role.ANNOTATOR)
def project(request: HttpRequest, slug: str) -> HttpResponse:
    """Annotators see their own figures; reviewers the funnel; managers the members."""
    here = with_figures(Project.objects.filter(pk=request.project.pk), request.user)
    context = {
        "row": here.get(),
        "guidelines": safe_html(request.project.guidelines),
    }
    if at_least(request.role, Role.REVIEWER):
        steps = queries.funnel(request.project)
        # A rule that lost nothing would only lengthen the table.
        context["funnel"] = [
            _with_words(step)
            for step in steps
            if step["lost"] or step["step"] not in RULES
        ]
        context["most"] = max((step["count"] for step in context["funnel"]), default=0)
        context["serving"] = request.project.channel.serving
        context["parts"] = readiness()
        context["other_base"] = other_base(request.project)
    if request.role == Role.MANAGER:
        context["members"] = member_counts(request.project)
    return page(request, "annotation/project.html", context)


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
        else:
            return redirect("prompts", made.slug)
    status = 422 if request.method == "POST" else 200
    return page(request, "annotation/new_project.html", {"form": form}, status=status)


def _with_words(step: dict) -> dict:
    lost = [
        (lost_words(rule), number) for rule, number in step["lost"].items() if number
    ]
    return {**step, "lost": lost}
