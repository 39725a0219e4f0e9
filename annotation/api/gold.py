"""GET and POST gold, retire an item, and let a person's waiting judgments count."""

from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import gold, trust
from annotation.access import needs, user_of
from annotation.api.leases import MessageSerializer
from annotation.api.parsing import RawBodyParser, stream_of
from annotation.api.prompts import ImportReportSerializer
from annotation.api.serializers import (
    PAGES,
    Body,
    Instant,
    Pages,
    paged,
    problems,
    read,
)
from annotation.models import GoldItem, Project, Role


class GoldSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    prompt = MessageSerializer(many=True, source="prompt.messages")
    answers = serializers.SerializerMethodField(
        help_text="two; the better one first, where one is"
    )
    expected = serializers.ChoiceField(choices=GoldItem.Expected.choices)
    explanation = serializers.CharField()
    author = serializers.CharField(source="author.username")
    judged = serializers.IntegerField(source="n_judged")
    right = serializers.IntegerField(source="n_right")
    was_wrong = serializers.BooleanField(help_text="its judgments count for nobody")
    created_at = Instant()
    retired_at = Instant(allow_null=True)

    def get_answers(self, item: GoldItem) -> list[str]:
        return [item.a.text, item.b.text]


class GoldItems(APIView):
    parser_classes = [RawBodyParser]
    pagination_class = Pages

    @extend_schema(
        operation_id="gold_list",
        summary="Gold: pairs whose answer is known; the newest first",
        parameters=PAGES,
        responses={200: GoldSerializer(many=True), **problems(403, 404)},
    )
    @needs(Role.MANAGER)
    def get(self, request: Request, slug: str) -> Response:
        return paged(request, self, gold.items(request.project), GoldSerializer)

    @extend_schema(
        operation_id="gold_import",
        summary="Import gold; good lines are kept, bad ones are reported",
        description=(
            "JSONL with `prompt` (a string) or `messages` on each line, and `chosen` and "
            '`rejected`; or `answers` (two) and `expected`, "tie" or "both_bad". '
            "`explanation`, if you like."
        ),
        request={
            "application/jsonl": OpenApiTypes.STR,
            "text/plain": OpenApiTypes.STR,
        },
        responses={
            200: ImportReportSerializer,
            **problems(400, 403, 404, 415, 422),
        },
    )
    @needs(Role.MANAGER)
    def post(self, request: Request, slug: str) -> Response:
        report = gold.import_gold(request.project, request.user, stream_of(request))
        return Response(ImportReportSerializer(report).data)


class RetireBody(Body):
    was_wrong = serializers.BooleanField(
        default=False, help_text="its judgments then count for nobody"
    )


def _of_gold(pk: int) -> Project:
    return get_object_or_404(GoldItem.objects.select_related("project"), pk=pk).project


class GoldRetire(APIView):
    @extend_schema(
        operation_id="gold_retire",
        summary="Hand an item out no more; again, it changes nothing",
        request=RetireBody,
        responses={200: GoldSerializer, **problems(400, 403, 404, 415, 422)},
    )
    @needs(Role.MANAGER, _of_gold)
    def post(self, request: Request, pk: int) -> Response:
        item = get_object_or_404(gold.items(request.project), pk=pk)
        gold.retire(item, request.user, **read(request, RetireBody))
        return Response(GoldSerializer(item).data)


class CountedSerializer(serializers.Serializer):
    counted = serializers.IntegerField(help_text="judgments that count now")


class LetCount(APIView):
    @extend_schema(
        operation_id="annotators_let_count",
        summary="Let a person's judgments count that wait for review",
        description="Your own, only where the project has no other reviewer or manager.",
        request=None,
        responses={200: CountedSerializer, **problems(403, 404)},
    )
    @needs(Role.REVIEWER)
    def post(self, request: Request, slug: str, username: str) -> Response:
        annotator = user_of(request.project, username)
        counted = trust.let_count(request.project, annotator, request.user)
        return Response({"counted": counted})
