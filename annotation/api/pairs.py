"""GET pairs: a project's pairs as a stream, in any format. POST pairs: ready ones in."""

from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import downloads, export_filters
from annotation.access import needs
from annotation.api.parsing import OneAnswer, RawBodyParser
from annotation.api.prompts import ImportReportSerializer, answer, imported, streams
from annotation.api.serializers import problems
from annotation.files.writing import TABLES
from annotation.importing import import_pairs
from annotation.models import PreferencePair, Role, RuleVerdict
from annotation.validation import RULES

PAIR_FILTERS = [
    OpenApiParameter("format", str, enum=downloads.PAIR_FORMATS, default="trl"),
    OpenApiParameter(
        "which",
        str,
        enum=list(export_filters.WHICH),
        default="sound",
        description=(
            "sound: accepted and not held out; held_out: accepted, to measure; accepted:"
            " both; all: all that stand"
        ),
    ),
    OpenApiParameter(
        "kind",
        str,
        enum=PreferencePair.Kind.values,
        description="whether judged here, an improved answer, or imported",
    ),
    OpenApiParameter("rule", str, enum=list(RULES), description="of a stored verdict"),
    OpenApiParameter(
        "verdict",
        str,
        enum=RuleVerdict.Result.values,
        description="of `rule` (reject if left out), else of any rule",
    ),
    OpenApiParameter(
        "agreement", float, description="least share of judgments for what won, 0 to 1"
    ),
    OpenApiParameter(
        "annotator",
        str,
        description="who judged it: a pseudonym, as exports show it, or your own name;"
        " others' names are for managers",
    ),
    OpenApiParameter("since", str, description="a day or an instant, itself included"),
    OpenApiParameter("until", str, description="a day, itself included, or an instant"),
]


class Pairs(APIView):
    parser_classes = [RawBodyParser]
    content_negotiation_class = OneAnswer

    @extend_schema(
        operation_id="pairs_export",
        summary="The sound pairs, or others, in a format (kto: labelled answers)",
        description=(
            "What was imported in the format asked for goes out as it came in. `together`"
            " and `llamafactory` leave out pairs that they can't say (tool calls, answers"
            " of several messages)."
        ),
        parameters=PAIR_FILTERS,
        responses={
            **streams(*TABLES),
            **problems(400, 403, 404, 422),
        },
    )
    @needs(Role.REVIEWER)
    def get(self, request: Request, slug: str) -> StreamingHttpResponse:
        reader = {"user": request.user, "role": request.role}
        return answer(
            lambda: downloads.pairs(request.project, request.query_params, **reader)
        )

    @extend_schema(
        operation_id="pairs_import",
        summary="Import ready pairs; good lines are kept, bad ones are reported",
        description=(
            "JSONL whose rows are pairs of TRL, OpenAI/Azure, Together or LLaMA-Factory, or"
            " KTO's labelled answers (joined to pairs by prompt; what finds no partner is"
            " kept, trains nothing and is exported again), told apart by their fields; or"
            " CSV with the columns `prompt`, `chosen`, `rejected`. What the"
            " project has already is counted as a duplicate."
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
        return imported(request, import_pairs)
