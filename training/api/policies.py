"""GET a project's policies; deploy one; roll back.

Win rates are null until head-to-head comparisons measure them.
"""

from typing import Any

from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation.access import needs
from annotation.api.serializers import Instant, problems
from annotation.models import Project, Role
from inference.models import Policy
from inference.queries import channel_policies, policy_state
from training import promotion
from training.models import TrainingRound

STATES = ["candidate", "serving", "retired", "rejected"]


class PolicySerializer(serializers.Serializer):
    name = serializers.CharField()
    parent = serializers.CharField(source="parent.name", default=None)
    round = serializers.IntegerField(allow_null=True, help_text="the id of its round")
    state = serializers.ChoiceField(choices=STATES)
    win_rate = serializers.FloatField(allow_null=True)
    is_base = serializers.BooleanField()
    rank = serializers.IntegerField(help_text="of its adapter; 0 for a base")
    adapter_sha256 = serializers.CharField()
    rejected_reason = serializers.CharField()
    created_at = Instant()


def policy_json(project: Project, policies: list[Policy]) -> list[dict[str, Any]]:
    """Each policy as this project sees it."""
    made_by = dict(
        TrainingRound.objects.filter(policy__in=policies).values_list("policy", "id")
    )
    for policy in policies:
        policy.round = made_by.get(policy.pk)  # type: ignore[attr-defined]
        policy.state = policy_state(policy, project.channel)  # type: ignore[attr-defined]
        policy.win_rate = None  # type: ignore[attr-defined]
    return PolicySerializer(policies, many=True).data  # type: ignore[return-value]


def project_of_policy(name: str) -> Project:
    """A policy belongs to one project's channel; a base to none, so to no call here."""
    project = Project.objects.select_related("channel__serving", "base").filter(
        channel__policies__name=name
    )
    if not (found := project.first()):
        raise Http404
    return found


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


class PolicyDeploy(APIView):
    @extend_schema(
        operation_id="policies_deploy",
        summary="Check it on every server, then let it serve",
        description="The base comes back by rolling back.",
        request=None,
        responses={
            200: PolicySerializer,
            **problems(403, 404, 503, p409="Why it may not serve."),
        },
    )
    @needs(Role.MANAGER, project_of_policy)
    def post(self, request: Request, name: str) -> Response:
        policy = Policy.objects.select_related("parent", "channel").get(name=name)
        promotion.promote(policy, request.user)
        return _serving(request.project)


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
