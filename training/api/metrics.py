"""GET a round's metrics as columns: one list of steps and one list a series."""

import math
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import ParseError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation.access import needs
from annotation.api.serializers import problems
from annotation.models import Role
from training.models import RoundMetric
from training.queries import project_of_round

PHASES = ("dpo", "sft")


class MetricsSerializer(serializers.Serializer):
    """Every series is as long as `steps`; where a step lacks a value it is null."""

    steps = serializers.ListField(child=serializers.IntegerField())
    series = serializers.DictField(
        child=serializers.ListField(child=serializers.FloatField(allow_null=True)),
        help_text="TRL's names, e.g. rewards/margins",
    )


class RoundMetrics(APIView):
    @extend_schema(
        operation_id="rounds_metrics",
        summary="Loss, rewards, margins … by step, under TRL's names",
        parameters=[OpenApiParameter("phase", str, enum=PHASES, default="dpo")],
        responses={200: MetricsSerializer, **problems(400, 403, 404)},
    )
    @needs(Role.REVIEWER, project_of_round)
    def get(self, request: Request, pk: int) -> Response:
        phase = request.query_params.get("phase", "dpo")
        if phase not in PHASES:
            raise ParseError(f"phase: {' | '.join(PHASES)}")
        rows = RoundMetric.objects.filter(training_round=pk, phase=phase)
        return Response(columns(rows.order_by("step").values_list("step", "values")))


def columns(rows: Any) -> dict[str, Any]:
    """[(step, {name: value})] → {"steps": […], "series": {name: [value or None]}}."""
    steps: list[int] = []
    series: dict[str, list[float | None]] = {}
    for step, values in rows:
        for name, value in values.items():
            if name in ("step", "phase") or not isinstance(value, int | float | None):
                continue
            column = series.setdefault(name, [])
            column += [None] * (len(steps) - len(column))
            is_finite = value is not None and math.isfinite(value)
            column.append(value if is_finite else None)
        steps.append(step)
    for column in series.values():
        column += [None] * (len(steps) - len(column))
    return {"steps": steps, "series": series}
