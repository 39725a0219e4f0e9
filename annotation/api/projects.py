"""GET and POST projects, GET and PATCH one of them, GET and PUT its members."""

from dataclasses import asdict
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db.models import Count, OuterRef, Q, QuerySet, Subquery, Sum
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import projects
from annotation.access import may_create, needs, projects_for, role_of
from annotation.api.serializers import (
    PAGES,
    Body,
    Instant,
    JSONObject,
    Pages,
    data_of,
    paged,
    problems,
    read,
)
from annotation.errors import SettingsError
from annotation.models import (
    Comparison,
    Lease,
    Membership,
    PreferencePair,
    Project,
    Prompt,
    Role,
)
from annotation.project_settings import checked, of
from annotation.queries import WAITS_FOR_CHECK


def with_counts(rows: QuerySet[Project], user: Any) -> QuerySet[Project]:
    """Each project with its counts, whatever their number in one query."""

    def total(found: QuerySet, aggregate: Count | Sum) -> Subquery:
        of_each = found.order_by().values("project")
        return Subquery(of_each.annotate(n=aggregate).values("n"))

    def number(model: type, *conditions: Q, **values: Any) -> Subquery:
        own = model._default_manager.filter(project=OuterRef("pk"))
        return total(own.filter(*conditions, **values), Count("*"))

    comparisons = Comparison.objects.filter(project=OuterRef("pk"))
    return rows.annotate(
        n_prompts=number(Prompt, is_gold=False),
        n_held_out=number(Prompt, is_held_out=True),
        n_waiting=number(Comparison, state="open", purpose__in=Comparison.OFFERED),
        n_on_desk=number(Lease, annotator=user, outcome=Lease.Outcome.ACTIVE),
        # Kept with each comparison: far fewer rows than to count the judgments.
        n_judgments=total(comparisons, Sum("judged")),
        n_pairs=number(PreferencePair, state="accepted", superseded_at=None),
        n_unchecked=number(PreferencePair, WAITS_FOR_CHECK, superseded_at=None),
        n_members=number(Membership),
    )


class CountsSerializer(serializers.Serializer):
    prompts = serializers.IntegerField()
    held_out_prompts = serializers.IntegerField()
    waiting = serializers.IntegerField(help_text="comparisons still to be judged")
    judgments = serializers.IntegerField(help_text="that stand")
    pairs = serializers.IntegerField(help_text="accepted by the rules")
    unchecked_pairs = serializers.IntegerField(help_text="whose rules are due")
    members = serializers.IntegerField()


class ProjectSerializer(serializers.Serializer):
    """A project as a member sees it. Which policy serves is not for annotators."""

    slug = serializers.SlugField()
    name = serializers.CharField()
    guidelines = serializers.CharField()
    role = serializers.SerializerMethodField(help_text="yours")
    settings = serializers.SerializerMethodField(help_text="defaults filled in")
    counts = serializers.SerializerMethodField()
    created_at = Instant()

    @extend_schema_field(serializers.ChoiceField(choices=Role.choices))
    def get_role(self, project: Project) -> str:
        return self.context["roles"][project.pk]

    @extend_schema_field({"type": "object", "additionalProperties": {}})
    def get_settings(self, project: Project) -> dict[str, Any]:
        return asdict(of(project))

    @extend_schema_field(CountsSerializer)
    def get_counts(self, project: Any) -> dict[str, int]:
        return {
            "prompts": project.n_prompts or 0,
            "held_out_prompts": project.n_held_out or 0,
            # What is on one's desk waits, be it a probe: 0 would tell that it is one.
            "waiting": project.n_waiting or project.n_on_desk or 0,
            "judgments": project.n_judgments or 0,
            "pairs": project.n_pairs or 0,
            "unchecked_pairs": project.n_unchecked or 0,
            "members": project.n_members or 0,
        }


class ChangedProjectBody(Body):
    name = serializers.CharField(max_length=projects.MAX_NAME, required=False)
    guidelines = serializers.CharField(
        required=False,
        allow_blank=True,
        trim_whitespace=False,
        max_length=projects.MAX_GUIDELINES,
        help_text="Markdown",
    )
    settings = JSONObject(
        required=False, help_text="those to change; docs/managers.md lists all of them"
    )

    def also_wrong(self, data: dict[str, Any]) -> dict[str, list[str]]:
        wrong = super().also_wrong(data)
        if isinstance(given := data.get("settings"), dict):
            try:
                checked(given)
            except SettingsError as error:
                wrong |= {field: [message] for field, message in error.errors}
        return wrong


class NewProjectBody(ChangedProjectBody):
    name = serializers.CharField(max_length=projects.MAX_NAME)
    slug = serializers.SlugField(
        max_length=80,
        required=False,
        allow_blank=True,
        help_text="its name in addresses; made of the name if left out",
    )

    def also_wrong(self, data: dict[str, Any]) -> dict[str, list[str]]:
        wrong = super().also_wrong(data)
        if isinstance(slug := data.get("slug"), str) and slug.strip():
            try:
                projects.checked_slug(slug.strip())
            except SettingsError as error:
                wrong["slug"] = [error.message]
        return wrong


def _answer(project: Project, user: Any, status: int = 200) -> Response:
    row = with_counts(Project.objects.filter(pk=project.pk), user).get()
    roles = {project.pk: role_of(user, project)}
    data = ProjectSerializer(row, context={"roles": roles}).data
    return Response(data, status=status)


def _roles(user: Any) -> dict[int, str]:
    """The user's role in each project; a superuser counts as manager everywhere."""
    if user.is_superuser:
        everywhere = Project.objects.values_list("pk", flat=True)
        return dict.fromkeys(everywhere, Role.MANAGER.value)
    return dict(Membership.objects.filter(user=user).values_list("project_id", "role"))


class ProjectList(APIView):
    pagination_class = Pages

    @extend_schema(
        operation_id="projects_list",
        summary="The projects you are a member of",
        parameters=PAGES,
        responses={200: ProjectSerializer(many=True), **problems(404)},
    )
    def get(self, request: Request) -> Response:
        rows = with_counts(projects_for(request.user), request.user)
        return paged(request, self, rows, ProjectSerializer, roles=_roles(request.user))

    @extend_schema(
        operation_id="projects_create",
        summary="Make a project; you become its manager",
        request=NewProjectBody,
        responses={201: ProjectSerializer, **problems(400, 403, 409, 415, 422, 503)},
    )
    def post(self, request: Request) -> Response:
        if not may_create(request.user):
            raise PermissionDenied(
                _("You may not make projects; ask an administrator.")
            )
        body = read(request, NewProjectBody)
        project = projects.create_project(creator=request.user, **body)
        return _answer(project, request.user, status=201)


class ProjectDetail(APIView):
    @extend_schema(
        operation_id="projects_read",
        summary="One project: its settings, your role, its counts",
        responses={200: ProjectSerializer, **problems(404)},
    )
    @needs(Role.ANNOTATOR)
    def get(self, request: Request, slug: str) -> Response:
        return _answer(request.project, request.user)

    @extend_schema(
        operation_id="projects_update",
        summary="Change the name, guidelines or settings",
        request=ChangedProjectBody,
        responses={200: ProjectSerializer, **problems(400, 403, 404, 415, 422)},
    )
    @needs(Role.MANAGER)
    def patch(self, request: Request, slug: str) -> Response:
        changes = read(request, ChangedProjectBody)
        project = projects.update_project(request.project, **changes)
        return _answer(project or request.project, request.user)


class MembersField(serializers.DictField):
    child = serializers.ChoiceField(choices=Role.choices)


_MEMBERS_SCHEMA = {
    "type": "object",
    "additionalProperties": {"type": "string", "enum": Role.values},
    "example": {"alice": "manager", "bob": "annotator"},
}


class Members(APIView):
    @extend_schema(
        operation_id="members_read",
        summary="Who is a member, and as what",
        responses={200: _MEMBERS_SCHEMA, **problems(403, 404)},
    )
    @needs(Role.MANAGER)
    def get(self, request: Request, slug: str) -> Response:
        return Response(_members(request.project))

    @extend_schema(
        operation_id="members_replace",
        summary="Say who the members are; whoever is not named is one no more",
        request={"application/json": _MEMBERS_SCHEMA},
        responses={200: _MEMBERS_SCHEMA, **problems(400, 403, 404, 415, 422)},
    )
    @needs(Role.MANAGER)
    def put(self, request: Request, slug: str) -> Response:
        members = MembersField().run_validation(data_of(request))
        projects.set_members(request.project, members)
        return Response(_members(request.project))


def _members(project: Project) -> dict[str, str]:
    return dict(project.memberships.values_list("user__username", "role"))
