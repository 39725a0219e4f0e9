"""GET pairs: the sound pairs of a project as a stream of JSON lines; as KTO rows, ties
and both-bads as well."""

from django.http import StreamingHttpResponse
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.exceptions import ParseError
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from annotation import exporting
from annotation.access import needs
from annotation.api.parsing import JSONLinesRenderer, OneAnswer
from annotation.api.serializers import problems
from annotation.models import Role


class Pairs(APIView):
    renderer_classes = [JSONRenderer]
    content_negotiation_class = OneAnswer

    @extend_schema(
        operation_id="pairs_export",
        summary="The sound pairs, one JSON object a line (kto: labelled answers)",
        parameters=[
            OpenApiParameter(
                "format", str, enum=sorted(exporting.FORMATS), default="trl"
            )
        ],
        responses={
            (200, JSONLinesRenderer.media_type): OpenApiResponse(OpenApiTypes.STR),
            **problems(400, 403, 404),
        },
    )
    @needs(Role.REVIEWER)
    def get(self, request: Request, slug: str) -> StreamingHttpResponse:
        chosen = request.query_params.get("format", "trl")
        if chosen not in exporting.FORMATS:
            raise ParseError(
                _("There is no format “%(format)s”; these are: %(known)s.")
                % {"format": chosen, "known": ", ".join(sorted(exporting.FORMATS))}
            )
        lines = exporting.export(request.project, chosen)
        return StreamingHttpResponse(
            lines,
            content_type=JSONLinesRenderer.media_type,
            headers={
                "Content-Disposition": f'attachment; filename="{slug}-{chosen}.jsonl"'
            },
        )
