"""GET a project's policies; deploy one; roll back.

Win rates are null until head-to-head comparisons measure them.
"""

from typing import Any

from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation.access import checked_role, needs
from annotation.api.serializers import Body, Instant, problems, read
from annotation.models import Project, Role
from annotation.retelling import retold
from inference.models import Policy
from inference.queries import channel_policies, policy_states
from training import promotion
from training.models import TrainingRound

STATES = ["candidate", "serving", "retired", "rejected"]


class PolicySerializer(serializers.Serializer):
    name = serializers.CharField()
    parent = serializers.CharField(source="parent.name", default=None, allow_null=True)
    round = serializers.IntegerField(allow_null=True, help_text="the id of its round")
    state = serializers.ChoiceField(choices=STATES)
    win_rate = serializers.FloatField(allow_null=True, help_text="not measured yet")
    is_base = serializers.BooleanField()
    rank = serializers.IntegerField(help_text="of its adapter; 0 for a base")
    adapter_sha256 = serializers.CharField()
    rejected_reason = serializers.SerializerMethodField(help_text="in your language")
    created_at = Instant()

    def get_rejected_reason(self, policy: Policy) -> str:
        return retold(policy.rejected_reason)


def policy_json(project: Project, policies: list[Policy]) -> list[dict[str, Any]]:
    """Each policy as this project sees it."""
    made_by = dict(
        TrainingRound.objects.filter(policy__in=policies).values_list("policy", "id")
    )
    states = policy_states(policies, project.channel)
    for policy in policies:
        policy.round = made_by.get(policy.pk)  # type: ignore[attr-defined]
        policy.state = states[policy.pk]  # type: ignore[attr-defined]
        policy.win_rate = None  # type: ignore[attr-defined]
    return PolicySerializer(policies, many=True).data  # type: ignore[return-value]


def _project_of(policy: Policy, body: dict[str, Any]) -> Project:
    """The project of the policy's channel; a base serves many, so the body says which of
    those that were made with it."""
    rows = Project.objects.select_related("channel__serving", "base")
    named = {"slug": body["project"]} if "project" in body else {}
    if policy.channel is not None:
        # One named that is not the policy's own is refused, not passed over.
        return get_object_or_404(rows, channel=policy.channel, **named)
    if not named:
        message = _("A base serves many projects: say for which one.")
        raise serializers.ValidationError({"project": [message]})
    return get_object_or_404(rows, base=policy, **named)


class Policies(APIView):
    @extend_schema(
        operation_id="policies_list",
        summary="The policies that served, serve or may serve, the base first",
        responses={200: PolicySerializer(many=True), **problems(403, 404)},
    )
    @needs(Role.REVIEWER)
    def get(self, request: Request, slug: str) -> Response:
        policies = list(channel_policies(request.project.channel))
        return Response(policy_json(request.project, policies))


class DeployBody(Body):
    project = serializers.SlugField(
        max_length=80,
        required=False,
        help_text="needed for a base alone, which belongs to no project",
    )


class PolicyDeploy(APIView):
    @extend_schema(
        operation_id="policies_deploy",
        summary="Check it on every server, then let it serve",
        request=DeployBody,
        responses={
            200: PolicySerializer,
            **problems(400, 403, 404, 415, 422, 503, p409="Why it may not serve."),
        },
    )
    def post(self, request: Request, name: str) -> Response:
        body = read(request, DeployBody)  # First: a bad one must not tell who exists.
        policy = get_object_or_404(Policy.objects.select_related("channel"), name=name)
        project = _project_of(policy, body)
        checked_role(request.user, project, Role.MANAGER)
        promotion.promote(policy, request.user, project)
        return _serving(project)


class Rollback(APIView):
    @extend_schema(
        operation_id="policies_rollback",
        summary="Let the policy serve that served before",
        request=None,
        responses={
            200: PolicySerializer,
            **problems(403, 404, 503, p409="There is none to go back to."),
        },
    )
    @needs(Role.MANAGER)
    def post(self, request: Request, slug: str) -> Response:
        promotion.rollback(request.project, request.user)
        return _serving(request.project)


def _serving(project: Project) -> Response:
    project = Project.objects.select_related("channel__serving__parent").get(
        pk=project.pk
    )
    return Response(policy_json(project, [project.channel.serving])[0])
