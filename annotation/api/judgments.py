"""POST a judgment on a lease, and undo one.

The lease's key makes it safe to send again: the same body changes nothing and is
answered with the same judgment.
"""

from uuid import UUID

from drf_spectacular.utils import (
    OpenApiResponse,
    extend_schema,
    extend_schema_field,
)
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import judging, judgment_body, showing
from annotation.api.leases import LeaseSerializer, lease_json
from annotation.api.serializers import Body, Instant, problems, read
from annotation.judging import criteria_seen
from annotation.models import Judgment, Verdict

CRITERION_VERDICTS = ["first", "second", "tie"]


class JudgmentBody(Body):
    verdict = serializers.ChoiceField(choices=Verdict.choices)
    strength = serializers.IntegerField(
        min_value=1,
        max_value=3,
        required=False,
        allow_null=True,
        help_text="1 slightly, 2 clearly, 3 much better",
    )
    reasons = serializers.ListField(
        child=serializers.CharField(max_length=judgment_body.MAX_REASON),
        max_length=judgment_body.MAX_REASONS,
        required=False,
    )
    comment = serializers.CharField(
        required=False,
        allow_blank=True,
        trim_whitespace=False,
        max_length=judgment_body.MAX_COMMENT,
    )
    edited = serializers.CharField(
        required=False,
        allow_blank=True,
        trim_whitespace=False,
        max_length=judgment_body.MAX_EDITED,
        help_text="the better answer, improved",
    )
    criteria = serializers.DictField(
        child=serializers.ChoiceField(choices=CRITERION_VERDICTS),
        required=False,
        help_text='the project\'s criteria, any of them: {"helpful": "first"}',
    )


class JudgmentSerializer(serializers.Serializer):
    """A judgment, in what was seen; never in the ids of what was behind it."""

    id = serializers.UUIDField()
    verdict = serializers.ChoiceField(choices=Verdict.choices)
    strength = serializers.IntegerField(allow_null=True)
    reasons = serializers.ListField(child=serializers.CharField())
    comment = serializers.CharField()
    edited = serializers.SerializerMethodField()
    criteria = serializers.SerializerMethodField()
    created_at = Instant()

    def get_edited(self, judgment: Judgment) -> str | None:
        return judgment.edited.text if judgment.edited else None

    @extend_schema_field(
        serializers.DictField(child=serializers.ChoiceField(CRITERION_VERDICTS))
    )
    def get_criteria(self, judgment: Judgment) -> dict[str, str]:
        return criteria_seen(judgment)


class SubmittedSerializer(serializers.Serializer):
    judgment = JudgmentSerializer()
    next = LeaseSerializer(allow_null=True)


# Made once: a serializer made for one request copies all of its fields first.
_BODY, _JUDGMENT = JudgmentBody(), JudgmentSerializer()


class LeaseJudgment(APIView):
    @extend_schema(
        operation_id="judgments_submit",
        summary="Judge the comparison of a lease, and get the next one",
        request=JudgmentBody,
        responses={
            201: OpenApiResponse(SubmittedSerializer, "Kept."),
            200: OpenApiResponse(
                SubmittedSerializer, "Sent before: the same judgment."
            ),
            **problems(
                400,
                403,
                404,
                415,
                422,
                p409="The lease has a judgment with another body.",
                p410="It was skipped, or ran out and others have filled its place.",
            ),
        },
    )
    def post(self, request: Request, key: UUID) -> Response:
        lease = showing.lease_for(request.user, key)
        submitted, following = judging.judge_and_take(
            lease, request.user, **read(request, _BODY)
        )
        data = {
            "judgment": _JUDGMENT.to_representation(submitted.judgment),
            "next": lease_json(following),
        }
        return Response(data, status=200 if submitted.is_replay else 201)


class JudgmentUndo(APIView):
    @extend_schema(
        operation_id="judgments_undo",
        summary="Take your judgment back and get a fresh lease on its comparison",
        request=None,
        responses={
            200: LeaseSerializer,
            **problems(
                403, 404, p409="A round has taken it, or it was undone already."
            ),
        },
    )
    def post(self, request: Request, pk: UUID) -> Response:
        judgment = judging.judgment_for(request.user, pk)
        return Response(lease_json(judging.undo(judgment)))
