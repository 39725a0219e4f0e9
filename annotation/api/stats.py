"""GET stats: the funnel and who did how much. What isn't measured yet is null."""

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import queries
from annotation.access import needs
from annotation.api.serializers import Instant, problems
from annotation.models import Role


class FunnelStepSerializer(serializers.Serializer):
    step = serializers.CharField()
    label = serializers.CharField(help_text="the same in your language")
    count = serializers.IntegerField()
    lost = serializers.DictField(
        child=serializers.IntegerField(), help_text="rule or reason → how many"
    )
    could_not_check = serializers.IntegerField(
        required=False, help_text="of a rule: passed on, marked"
    )


class AnnotatorSerializer(serializers.Serializer):
    username = serializers.CharField()
    judgments = serializers.IntegerField(help_text="that stand")
    mean_seconds = serializers.FloatField(allow_null=True)
    last_at = Instant(allow_null=True)
    skips = serializers.IntegerField()


class StatsSerializer(serializers.Serializer):
    funnel = FunnelStepSerializer(many=True)
    agreement = serializers.FloatField(allow_null=True)
    bias = serializers.FloatField(allow_null=True)
    annotators = AnnotatorSerializer(many=True)


class Stats(APIView):
    @extend_schema(
        operation_id="stats_read",
        summary="The funnel from judgments to pairs, and each annotator's share",
        responses={200: StatsSerializer, **problems(403, 404)},
    )
    @needs(Role.REVIEWER)
    def get(self, request: Request, slug: str) -> Response:
        data = {
            "funnel": queries.funnel(request.project),
            "agreement": None,
            "bias": None,
            "annotators": queries.annotator_counts(request.project),
        }
        return Response(StatsSerializer(data).data)
