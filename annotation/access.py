"""Who may do what: a view states the role it needs once, here it is enforced.

Strangers get 404, as if the project did not exist; members below the role get 403.
A superuser counts as manager everywhere. HTML and API views use the same decorator,
and its `needed_role` is what the role × URL test reads.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404, resolve_url
from django.utils.translation import gettext as _

from annotation import texts
from annotation.models import Membership, Project, Role

_RANK: dict[str, int] = {role: rank for rank, role in enumerate(Role.values)}


def at_least(role: str | None, needed: str) -> bool:
    """Whether `role` may do what `needed` may; None is nobody."""
    return role is not None and _RANK[role] >= _RANK[needed]


def role_of(user, project: Project) -> str | None:
    """The user's role in the project; None for a stranger."""
    if not user.is_authenticated or not user.is_active:
        return None
    if user.is_superuser:
        return Role.MANAGER.value
    return (
        Membership.objects.filter(project=project, user=user)
        .values_list("role", flat=True)
        .first()
    )


def checked_role(user, project: Project, needed: str) -> str:
    """The user's role; Http404 for strangers, PermissionDenied below `needed`."""
    role = role_of(user, project)
    if role is None:
        raise Http404(_("There is no such project."))
    if not at_least(role, needed):
        raise PermissionDenied(
            _("This needs the role “%(role)s” in the project.")
            % {"role": Role(needed).label}
        )
    return role


def projects_for(user):
    """The projects a user sees, by slug."""
    projects = Project.objects.select_related("channel__serving", "base")
    if user.is_superuser:
        return projects.order_by("slug")
    return projects.filter(memberships__user=user).order_by("slug")


def user_of(project: Project, username: str):
    """The user of an address: a member, or who once judged here. Http404 for all others,
    so that nobody learns which accounts there are."""
    if not texts.problem(username):
        user = get_user_model().objects.filter(username=username).first()
        if user and (
            project.memberships.filter(user=user).exists()
            or project.judgments.filter(annotator=user).exists()
        ):
            return user
    raise Http404(_("There is no such user."))


def other_reviewers(project: Project, user) -> QuerySet[Membership]:
    """The project's reviewers and managers with a working account, but for the user."""
    return Membership.objects.filter(
        project=project,
        role__in=[Role.REVIEWER, Role.MANAGER],
        user__is_active=True,
    ).exclude(user=user)


def may_create(user) -> bool:
    """Whether the user may make projects: staff, or who was given the permission."""
    return user.is_staff or user.has_perm("annotation.add_project")


def by_slug(slug: str, **_others: Any) -> Project:
    """How a view's project is found where the address names it."""
    return get_object_or_404(
        Project.objects.select_related("channel__serving", "base"), slug=slug
    )


def needs(
    role: str, project_of: Callable[..., Project] = by_slug
) -> Callable[[Callable], Callable]:
    """Decorate a view (function, or method of an API view) with the role it needs.

    `project_of(**url_kwargs)` finds the project, raising Http404. The view is called
    with its arguments unchanged; `request.project` and `request.role` are set. An
    anonymous reader of a page is sent to sign in (the API answers 401 before this).
    """

    def decorate(view: Callable) -> Callable:
        @wraps(view)
        def checked(*args, **kwargs):
            request = args[0] if hasattr(args[0], "META") else args[1]
            if not request.user.is_authenticated and isinstance(request, HttpRequest):
                # Signing in ends in a GET, which an address for acts alone refuses.
                is_page = request.method in ("GET", "HEAD")
                return redirect_to_login(
                    request.get_full_path() if is_page else resolve_url("home")
                )
            request.project = project_of(**kwargs)
            request.role = checked_role(request.user, request.project, role)
            return view(*args, **kwargs)

        checked.needed_role = role  # type: ignore[attr-defined]
        return checked

    return decorate
