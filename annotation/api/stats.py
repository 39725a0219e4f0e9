"""GET stats: the funnel, agreement, bias, and who did how much. What isn't measured yet
is null.
"""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import quality, queries, trust
from annotation.access import at_least, needs
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
    let_through = serializers.IntegerField(
        required=False, help_text="of the accepted: against a rule, by a reviewer"
    )


class ShareSerializer(serializers.Serializer):
    count = serializers.IntegerField()
    of = serializers.IntegerField()
    value = serializers.FloatField(allow_null=True)
    low = serializers.FloatField(allow_null=True, help_text="of its 95 % interval")
    high = serializers.FloatField(allow_null=True)


class ChecksSerializer(serializers.Serializer):
    gold = ShareSerializer(help_text="right, of the latest gold")
    gold_seen = serializers.IntegerField(help_text="gold judged in all")
    consistency = ShareSerializer(
        source="consistent", help_text="the same when their own pair came again"
    )
    too_fast = ShareSerializer(help_text="far below their own pace, of recent ones")
    waiting = serializers.IntegerField(help_text="judgments that wait for review")
    below_floor = serializers.BooleanField(source="is_below")


class AnnotatorSerializer(serializers.Serializer):
    username = serializers.CharField()
    judgments = serializers.IntegerField(help_text="that stand")
    mean_seconds = serializers.FloatField(allow_null=True)
    last_at = Instant(allow_null=True)
    skips = serializers.IntegerField()
    checks = ChecksSerializer(
        allow_null=True,
        help_text="for managers; of yourself, as of the last full hour; else null",
    )


class FigureSerializer(serializers.Serializer):
    value = serializers.FloatField(allow_null=True, help_text="1: full, 0: by chance")
    low = serializers.FloatField(allow_null=True, help_text="of its 95 % interval")
    high = serializers.FloatField(allow_null=True)
    units = serializers.IntegerField(help_text="comparisons judged more than once")


class TogetherSerializer(serializers.Serializer):
    annotators = serializers.ListField(
        child=serializers.CharField(), min_length=2, max_length=2
    )
    cohen_kappa = FigureSerializer(source="kappa")


class WeekSerializer(serializers.Serializer):
    start = serializers.DateField(help_text="its Monday")
    krippendorff_alpha = FigureSerializer(source="alpha")


class AgreementSerializer(serializers.Serializer):
    krippendorff_alpha = FigureSerializer(source="alpha")
    fleiss_kappa = FigureSerializer(source="fleiss")
    pairs = TogetherSerializer(many=True)
    weeks = WeekSerializer(many=True)


class SwayedSerializer(serializers.Serializer):
    first = ShareSerializer(help_text="for the answer shown first; half is expected")
    longer = ShareSerializer(help_text="for the longer one, where lengths differ")
    marked = ShareSerializer(help_text="for the one with more Markdown, likewise")


class SwayedAnnotatorSerializer(SwayedSerializer):
    username = serializers.CharField()


class BiasSerializer(SwayedSerializer):
    annotators = SwayedAnnotatorSerializer(many=True)


class StatsSerializer(serializers.Serializer):
    funnel = FunnelStepSerializer(many=True)
    agreement = AgreementSerializer(
        allow_null=True, help_text="null: nothing was judged by two people"
    )
    bias = BiasSerializer(
        allow_null=True,
        help_text="shares of the verdicts for one answer; null where there is none",
    )
    annotators = AnnotatorSerializer(many=True)


class Stats(APIView):
    @extend_schema(
        operation_id="stats_read",
        summary="The funnel from judgments to pairs, agreement, each one's share",
        responses={200: StatsSerializer, **problems(403, 404)},
    )
    @needs(Role.REVIEWER)
    def get(self, request: Request, slug: str) -> Response:
        data = {
            "funnel": queries.funnel(request.project),
            "agreement": quality.agreement(request.project),
            "bias": quality.bias(request.project),
            "annotators": _annotators(request),
        }
        return Response(StatsSerializer(data).data)


def _annotators(request: Request) -> list[dict[str, Any]]:
    """Who did how much; what is known of each only for those who may know it."""
    rest = None
    if at_least(request.role, Role.MANAGER):
        known, rest = trust.checks(request.project), trust.NOTHING
    else:
        known = {request.user.username: trust.told_to(request.project, request.user)}
    return [
        row | {"checks": known.get(row["username"], rest)}
        for row in queries.annotator_counts(request.project)
    ]
