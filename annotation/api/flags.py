"""GET flags (pairs somebody found something wrong with) and withdraw such a pair."""

from uuid import UUID

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.exceptions import ParseError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import flags
from annotation.access import needs
from annotation.api.leases import MessageSerializer
from annotation.api.serializers import PAGES, Instant, Pages, paged, problems
from annotation.models import Comparison, Lease, Role


class FlaggedSerializer(serializers.Serializer):
    key = serializers.UUIDField()
    flag = serializers.ChoiceField(choices=Lease.Flag.choices)
    comment = serializers.CharField(source="skip_reason")
    annotator = serializers.CharField(source="annotator.username")
    flagged_at = Instant(source="ended_at")
    comparison = serializers.IntegerField(source="comparison_id")
    state = serializers.ChoiceField(
        source="comparison.state",
        choices=Comparison.State.choices,
        help_text="of the comparison: an open one can be withdrawn",
    )
    prompt = MessageSerializer(many=True, source="comparison.prompt.messages")
    first = serializers.CharField(source="first.text", help_text="as it was shown")
    second = serializers.CharField(source="second.text")


class Flags(APIView):
    pagination_class = Pages

    @extend_schema(
        operation_id="flags_list",
        summary="Flagged pairs, the newest first",
        parameters=[OpenApiParameter("flag", str, enum=Lease.Flag.values), *PAGES],
        responses={200: FlaggedSerializer(many=True), **problems(400, 403, 404)},
    )
    @needs(Role.REVIEWER)
    def get(self, request: Request, slug: str) -> Response:
        flag = request.query_params.get("flag", "")
        if flag and flag not in Lease.Flag.values:
            raise ParseError(f"flag: {' | '.join(Lease.Flag.values)}")
        found = flags.with_content(flags.flagged(request.project, flag))
        return paged(request, self, found, FlaggedSerializer)


class FlagWithdraw(APIView):
    @extend_schema(
        operation_id="flags_withdraw",
        summary="Offer a flagged pair to nobody any more",
        description="Who holds it may still finish. What was judged before decides it.",
        request=None,
        responses={
            204: None,
            **problems(403, 404, p409="It is no longer offered to anybody."),
        },
    )
    @needs(Role.REVIEWER)
    def post(self, request: Request, slug: str, key: UUID) -> Response:
        flags.withdraw(request.project, str(key))
        return Response(status=204)
