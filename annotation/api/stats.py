"""GET stats: the funnel and who did how much. What isn't measured yet is null."""

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import queries
from annotation.access import needs
from annotation.api.serializers import problems
from annotation.models import Role


class FunnelStepSerializer(serializers.Serializer):
    step = serializers.CharField()
    label = serializers.CharField(help_text="the same in your language")
    count = serializers.IntegerField()
    lost = serializers.DictField(
        child=serializers.IntegerField(), help_text="rule or reason → how many"
    )


class StatsSerializer(serializers.Serializer):
    funnel = FunnelStepSerializer(many=True)
    agreement = serializers.FloatField(allow_null=True)
    bias = serializers.FloatField(allow_null=True)
    annotators = serializers.ListField(child=serializers.DictField())


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
