"""GET judgments and dataset: what else a project can be asked for as a file."""

from django.http import StreamingHttpResponse
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from annotation import downloads
from annotation.access import needs
from annotation.api.pairs import PAIR_FILTERS
from annotation.api.parsing import OneAnswer
from annotation.api.prompts import answer, streams
from annotation.api.serializers import problems
from annotation.files.writing import TABLES
from annotation.models import Role

TABLE_FORMAT = OpenApiParameter("format", str, enum=TABLES, default="jsonl")
NAMES = OpenApiParameter(
    "names", bool, description="annotators by name, not pseudonym; managers only"
)
DATED = [p for p in PAIR_FILTERS if p.name in ("annotator", "since", "until")]


class Judgments(APIView):
    content_negotiation_class = OneAnswer

    @extend_schema(
        operation_id="judgments_export",
        summary="The standing judgments: what was shown where, who won, how long it took",
        parameters=[TABLE_FORMAT, NAMES, *DATED],
        responses={**streams(*TABLES), **problems(400, 403, 404, 422)},
    )
    @needs(Role.REVIEWER)
    def get(self, request: Request, slug: str) -> StreamingHttpResponse:
        params = request.query_params
        return answer(
            lambda: downloads.judgments(
                request.project, params, request.role, request.user
            )
        )


class Dataset(APIView):
    content_negotiation_class = OneAnswer

    @extend_schema(
        operation_id="dataset_export",
        summary="A folder for datasets.load_dataset with its card, zipped",
        parameters=[NAMES, *(p for p in PAIR_FILTERS if p.name != "format")],
        responses={**streams("zip"), **problems(400, 403, 404, 422)},
    )
    @needs(Role.REVIEWER)
    def get(self, request: Request, slug: str) -> StreamingHttpResponse:
        params = request.query_params
        return answer(
            lambda: downloads.dataset(
                request.project, params, request.role, user=request.user
            )
        )
