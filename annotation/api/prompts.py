"""POST prompts: a JSONL or CSV file as the body, read a line at a time."""

from io import BytesIO

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation.access import needs
from annotation.api.parsing import RawBodyParser, refuse_large
from annotation.api.serializers import problems
from annotation.importing import import_prompts
from annotation.models import Role

FORMATS = {
    # Of a content type; any other leaves it to the first line to tell.
    "text/csv": "csv",
    "application/csv": "csv",
    "application/jsonl": "jsonl",
    "application/x-jsonlines": "jsonl",
    "application/x-ndjson": "jsonl",
    "application/json": "jsonl",
}


class RejectedSerializer(serializers.Serializer):
    line = serializers.IntegerField()
    reason = serializers.CharField()


class ImportReportSerializer(serializers.Serializer):
    accepted = serializers.IntegerField()
    duplicates = serializers.IntegerField()
    rejected = RejectedSerializer(many=True)


class Prompts(APIView):
    parser_classes = [RawBodyParser]

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
            **problems(400, 403, 404, 411, 413, 415, 422),
        },
    )
    @needs(Role.MANAGER)
    def post(self, request: Request, slug: str) -> Response:
        refuse_large(request)
        kind = (request.content_type or "").split(";")[0].strip().lower()
        # An empty body has no stream.
        stream = request.data if hasattr(request.data, "readline") else BytesIO()
        report = import_prompts(request.project, stream, FORMATS.get(kind))
        return Response(ImportReportSerializer(report).data)
