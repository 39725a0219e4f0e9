"""POST prompts: a JSONL or CSV file as the body, read a line at a time. GET: them back."""

from collections.abc import Callable
from typing import Any

from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import ParseError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import downloads
from annotation.access import needs
from annotation.api.parsing import (
    OneAnswer,
    RawBodyParser,
    stream_of,
)
from annotation.api.serializers import problems
from annotation.errors import ExportRefused
from annotation.files.writing import TABLES, TYPES
from annotation.importing import ImportReport, import_prompts
from annotation.models import Role

FORMATS = {
    # Of a content type; any other leaves it to the first line to tell.
    "text/csv": "csv",
    "application/csv": "csv",
    "application/jsonl": "jsonl",
    "application/x-jsonlines": "jsonl",
    "application/x-ndjson": "jsonl",
}


class RejectedSerializer(serializers.Serializer):
    line = serializers.IntegerField()
    reason = serializers.CharField()


class ImportReportSerializer(serializers.Serializer):
    accepted = serializers.IntegerField()
    duplicates = serializers.IntegerField()
    rejected = RejectedSerializer(many=True)
    labelled = serializers.IntegerField(
        required=False,
        help_text="of the accepted, labelled answers (KTO) that make no pair; only where "
        "there are any",
    )

    def to_representation(self, report: ImportReport) -> dict[str, Any]:
        told = super().to_representation(report)
        if not told["labelled"]:
            del told["labelled"]
        return told


def imported(request: Request, take: Callable[..., ImportReport]) -> Response:
    """The body taken in by `take`, and what came of it."""
    kind = (request.content_type or "").split(";")[0].strip().lower()
    report = take(request.project, stream_of(request), FORMATS.get(kind))
    return Response(ImportReportSerializer(report).data)


def answer(make: Callable[[], StreamingHttpResponse]) -> StreamingHttpResponse:
    """A download; an unknown format is 400, another wrong parameter 422."""
    try:
        return make()
    except ExportRefused as refused:
        if refused.field == "format":
            raise ParseError(refused.message) from None
        raise


def streams(*formats: str) -> dict[Any, OpenApiResponse]:
    """For the schema: what a download may be."""
    return {
        (200, TYPES[format].partition(";")[0]): OpenApiResponse(
            OpenApiTypes.STR if format in ("jsonl", "csv") else OpenApiTypes.BINARY
        )
        for format in formats
    }


class Prompts(APIView):
    parser_classes = [RawBodyParser]
    content_negotiation_class = OneAnswer

    @extend_schema(
        operation_id="prompts_export",
        summary="The prompts, as they can be imported again",
        parameters=[OpenApiParameter("format", str, enum=TABLES, default="jsonl")],
        responses={**streams(*TABLES), **problems(400, 403, 404, 422)},
    )
    @needs(Role.REVIEWER)
    def get(self, request: Request, slug: str) -> StreamingHttpResponse:
        reader = {"user": request.user, "role": request.role}
        return answer(
            lambda: downloads.prompts(request.project, request.query_params, **reader)
        )

    @extend_schema(
        operation_id="prompts_import",
        summary="Import prompts; good lines are kept, bad ones are reported",
        description=(
            "JSONL with `prompt` (a string) or `messages` on each line, or CSV with a "
            "`prompt` column; UTF-8 with or without BOM. The content type tells which; "
            "where it tells nothing, the first line does."
        ),
        request={
            "application/jsonl": OpenApiTypes.STR,
            "text/csv": OpenApiTypes.STR,
        },
        responses={
            200: ImportReportSerializer,
            **problems(400, 403, 404, 415, 422),
        },
    )
    @needs(Role.MANAGER)
    def post(self, request: Request, slug: str) -> Response:
        return imported(request, import_prompts)
