"""GET and POST a project's rounds; GET one; cancel and resume it."""

from typing import Any

from django.http import StreamingHttpResponse
from drf_spectacular.utils import OpenApiResponse, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import downloads
from annotation.access import needs
from annotation.api.pairs import PAIR_FILTERS
from annotation.api.parsing import OneAnswer
from annotation.api.prompts import answer, streams
from annotation.api.serializers import (
    PAGES,
    Body,
    Instant,
    JSONObject,
    Pages,
    paged,
    problems,
    read,
)
from annotation.files.writing import TABLES
from annotation.models import Role
from annotation.retelling import retold
from training import rounds
from training.models import TrainingRound
from training.queries import pairs_of, project_of_round, with_counts


class ProgressSerializer(serializers.Serializer):
    step = serializers.IntegerField()
    total_steps = serializers.IntegerField()
    eta_seconds = serializers.IntegerField(allow_null=True)


class RoundSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    project = serializers.SlugField(source="project.slug")
    number = serializers.IntegerField(help_text="within its project, from 1")
    state = serializers.ChoiceField(choices=TrainingRound.State.choices)
    progress = serializers.SerializerMethodField()
    pairs = serializers.IntegerField(source="n_pairs", help_text="frozen for it")
    policy = serializers.SerializerMethodField(help_text="what came of it")
    error = serializers.SerializerMethodField(help_text="in your language")
    preset = serializers.CharField()
    start = serializers.CharField(source="start.name")
    reference = serializers.ChoiceField(choices=TrainingRound.Reference.choices)
    data = serializers.ChoiceField(choices=TrainingRound.Data.choices)
    config = serializers.DictField()
    pairs_sha256 = serializers.CharField()
    cancel_requested = serializers.BooleanField()
    created_by = serializers.CharField(
        source="created_by.username", default=None, allow_null=True
    )
    created_at = Instant()
    started_at = Instant(allow_null=True)
    finished_at = Instant(allow_null=True)
    summary = serializers.DictField()

    @extend_schema_field(ProgressSerializer)
    def get_progress(self, row: TrainingRound) -> dict[str, int | None]:
        eta = row.eta_seconds
        return {
            "step": row.step,
            "total_steps": row.total_steps,
            "eta_seconds": None if eta is None else round(eta),
        }

    def get_policy(self, row: TrainingRound) -> str | None:
        return row.policy.name if row.policy else None

    def get_error(self, row: TrainingRound) -> str | None:
        return retold(row.error) or None


def _answer(pk: int, status: int = 200) -> Response:
    row = with_counts().get(pk=pk)
    return Response(RoundSerializer(row).data, status=status)


class RoundBody(Body):
    start = serializers.CharField(
        max_length=64,
        required=False,
        allow_null=True,
        help_text="`base`, `serving`, or a policy's name",
    )
    reference = serializers.ChoiceField(
        choices=TrainingRound.Reference.choices, required=False, allow_null=True
    )
    data = serializers.ChoiceField(
        choices=TrainingRound.Data.choices, required=False, allow_null=True
    )
    preset = serializers.CharField(
        max_length=20,
        required=False,
        allow_null=True,
        help_text="`cumulative` or `incremental`",
    )
    config = JSONObject(
        required=False,
        help_text="keys of the trainer's config.json (training/dpo/config.py)",
    )


class Rounds(APIView):
    pagination_class = Pages

    @extend_schema(
        operation_id="rounds_list",
        summary="The rounds, newest first",
        parameters=PAGES,
        responses={200: RoundSerializer(many=True), **problems(403, 404)},
    )
    @needs(Role.REVIEWER)
    def get(self, request: Request, slug: str) -> Response:
        rows = with_counts().filter(project=request.project)
        return paged(request, self, rows.order_by("-id"), RoundSerializer)

    @extend_schema(
        operation_id="rounds_start",
        summary="Freeze the pairs and start a round",
        request=RoundBody,
        responses={
            201: RoundSerializer,
            **problems(
                400,
                403,
                404,
                415,
                p409="A round is running.",
                p422="Why not, with the funnel where pairs are missing.",
            ),
        },
    )
    @needs(Role.MANAGER)
    def post(self, request: Request, slug: str) -> Response:
        asked = read(request, RoundBody)
        started = rounds.start_round(request.project, request.user, **asked)
        return _answer(started.pk, status=201)


class Round(APIView):
    @extend_schema(
        operation_id="rounds_read",
        summary="One round, with its progress",
        responses={200: RoundSerializer, **problems(403, 404)},
    )
    @needs(Role.REVIEWER, project_of_round)
    def get(self, request: Request, pk: int) -> Response:
        return _answer(pk)


_MOVED = OpenApiResponse(RoundSerializer, "The round.")


class RoundPairs(APIView):
    content_negotiation_class = OneAnswer

    @extend_schema(
        operation_id="rounds_pairs",
        summary="The pairs that a round froze, in any format of the pairs call",
        parameters=PAIR_FILTERS,
        responses={**streams(*TABLES), **problems(400, 403, 404, 422)},
    )
    @needs(Role.REVIEWER, project_of_round)
    def get(self, request: Request, pk: int) -> StreamingHttpResponse:
        params = request.query_params.copy()
        params.setdefault("which", "all")
        reader = {"user": request.user, "role": request.role}
        return answer(
            lambda: downloads.pairs(request.project, params, pairs_of(pk), **reader)
        )


class RoundCancel(APIView):
    @extend_schema(
        operation_id="rounds_cancel",
        summary="Stop a round; it keeps a checkpoint",
        request=None,
        responses={200: _MOVED, **problems(403, 404, p409="It has ended already.")},
    )
    @needs(Role.MANAGER, project_of_round)
    def post(self, request: Request, pk: int) -> Response:
        return _act(rounds.cancel_round, pk, request.user)


class RoundResume(APIView):
    @extend_schema(
        operation_id="rounds_resume",
        summary="Go on with a failed or cancelled round from its last checkpoint",
        request=None,
        responses={
            200: _MOVED,
            **problems(403, 404, p409="It has not stopped, or another one runs."),
        },
    )
    @needs(Role.MANAGER, project_of_round)
    def post(self, request: Request, pk: int) -> Response:
        return _act(rounds.resume_round, pk, request.user)


def _act(service: Any, pk: int, user: Any) -> Response:
    service(TrainingRound.objects.get(pk=pk), user)
    return _answer(pk)
