"""Policies: the list with its ancestry; deploying one and rolling back."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from annotation.access import needs
from annotation.models import Project, Role
from annotation.pages import page
from annotation.retelling import retold
from inference.errors import AdapterRefused, DeployRefused, InferenceError
from inference.models import Policy
from inference.policies import rollback_target
from inference.queries import why_refused
from training import promotion, queries


def by_policy(name: str, **_others: object) -> Project:
    rows = Project.objects.select_related("channel__serving", "base")
    return get_object_or_404(rows, channel__policies__name=name)


@require_safe
@needs(Role.REVIEWER)
def policy_list(request: HttpRequest, slug: str) -> HttpResponse:
    return _page(request)


@require_POST
@needs(Role.MANAGER, by_policy)
def deploy(request: HttpRequest, name: str) -> HttpResponse:
    policy = get_object_or_404(Policy, name=name)
    return _act(request, lambda: promotion.promote(policy, request.user))


@require_POST
@needs(Role.MANAGER)
def deploy_base(request: HttpRequest, slug: str) -> HttpResponse:
    """A base belongs to no project, so the address says which one is meant."""
    project = request.project
    return _act(request, lambda: promotion.promote(project.base, request.user, project))


@require_POST
@needs(Role.MANAGER)
def rollback(request: HttpRequest, slug: str) -> HttpResponse:
    return _act(request, lambda: promotion.rollback(request.project, request.user))


def _act(request: HttpRequest, act) -> HttpResponse:
    try:
        deployment = act()
    except AdapterRefused as refusal:
        return _page(request, refusal=retold(str(refusal)), status=422)
    except (DeployRefused, InferenceError) as refusal:
        return _page(request, refusal=retold(str(refusal)), status=409)
    messages.success(
        request, _("%(policy)s serves now.") % {"policy": deployment.policy.name}
    )
    return redirect("policies", request.project.slug)


def _page(
    request: HttpRequest, *, refusal: str = "", status: int = 200
) -> HttpResponse:
    context = {
        "rows": queries.policy_rows(request.project),
        "refusal": refusal,
        "cannot_serve": why_refused(request.project.channel.serving),
        "earlier": rollback_target(request.project.channel),
    }
    return page(request, "training/policies.html", context, status=status)
