"""POST rules/preview: what other rules would make of the project's pairs."""

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import previewing, project_settings
from annotation.access import needs
from annotation.api.serializers import Body, JSONObject, problems, read
from annotation.models import Role
from annotation.queries import rule_label


class PreviewBody(Body):
    rules = JSONObject(
        required=False,
        help_text="{rule: {parameter: value}}; what it does not name stays as it is",
    )
    accept_unchecked = serializers.BooleanField(required=False)


class RuleChangeSerializer(serializers.Serializer):
    rule = serializers.CharField()
    label = serializers.SerializerMethodField(help_text="the same in your language")
    more = serializers.IntegerField(help_text="pairs that would be lost to it first")
    fewer = serializers.IntegerField(help_text="pairs lost to it that would pass")
    also = serializers.IntegerField(
        help_text="pairs lost already that it would object to as well"
    )
    more_pairs = serializers.SerializerMethodField(help_text="ids of the newest 20")
    fewer_pairs = serializers.SerializerMethodField(help_text="ids of the newest 20")

    def get_label(self, change: previewing.RuleChange) -> str:
        return rule_label(change.rule)

    def get_more_pairs(self, change: previewing.RuleChange) -> list[int]:
        return [line.pair for line in change.more_pairs]

    def get_fewer_pairs(self, change: previewing.RuleChange) -> list[int]:
        return [line.pair for line in change.fewer_pairs]


class PreviewSerializer(serializers.Serializer):
    looked_at = serializers.IntegerField(help_text="the newest pairs, 2000 at most")
    all = serializers.IntegerField(help_text="checked pairs that no round has taken")
    waiting = serializers.IntegerField(help_text="not checked yet, not looked at")
    uncounted = serializers.IntegerField(
        help_text="pairs whose tokens are not counted yet: saving counts them, and"
        " max_length may then reject them"
    )
    accepted_now = serializers.IntegerField()
    accepted_then = serializers.IntegerField()
    more = serializers.IntegerField(help_text="pairs that would be lost")
    fewer = serializers.IntegerField(help_text="pairs that would no longer be lost")
    rules = RuleChangeSerializer(many=True, help_text="those that change something")


class RulesPreview(APIView):
    @extend_schema(
        operation_id="rules_preview",
        summary="What other rules would make of the pairs; nothing is saved",
        request=PreviewBody,
        responses={200: PreviewSerializer, **problems(400, 403, 404, 415, 422)},
    )
    @needs(Role.MANAGER)
    def post(self, request: Request, slug: str) -> Response:
        body = read(request, PreviewBody)
        given = project_settings.checked({"rules": body.get("rules", {})})
        found = previewing.preview(
            request.project, given["rules"], body.get("accept_unchecked")
        )
        return Response(PreviewSerializer(found).data)
