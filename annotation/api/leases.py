"""POST leases (the next comparison for you) and DELETE one (skip it).

A lease is written exactly as the design has it: its ids are random and made for it
alone, so nothing here tells which policy answered or that a pair comes again.
"""

from typing import Any
from uuid import UUID

from drf_spectacular.utils import (
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
    extend_schema_field,
)
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import ending, leasing, showing
from annotation.access import needs
from annotation.api.serializers import Body, Instant, data_of, problems
from annotation.models import Lease, Role

RETRY_SECONDS = 2
"""A pair takes about so long to be sampled, and asking has nudged those who sample."""


class AnswerSerializer(serializers.Serializer):
    id = serializers.UUIDField()
    text = serializers.CharField()


class MessageSerializer(serializers.Serializer):
    """As imported: `role`, `content`, and whatever else the message carries."""

    role = serializers.CharField()
    content = serializers.CharField()


class LeasedComparisonSerializer(serializers.Serializer):
    id = serializers.UUIDField(source="comparison_alias")
    prompt = serializers.SerializerMethodField()
    first = serializers.SerializerMethodField()
    second = serializers.SerializerMethodField()

    @extend_schema_field(MessageSerializer(many=True))
    def get_prompt(self, lease: Lease) -> list[dict[str, Any]]:
        return showing.prompt_shown(lease)

    @extend_schema_field(AnswerSerializer)
    def get_first(self, lease: Lease) -> dict[str, str]:
        return {"id": str(lease.first_alias), "text": lease.first.text}

    @extend_schema_field(AnswerSerializer)
    def get_second(self, lease: Lease) -> dict[str, str]:
        return {"id": str(lease.second_alias), "text": lease.second.text}


class LeaseSerializer(serializers.Serializer):
    key = serializers.UUIDField()
    expires_at = Instant()
    comparison = LeasedComparisonSerializer(source="*")


# Made once: a serializer made for one request copies all of its fields first.
_LEASE = LeaseSerializer()


def lease_json(lease: Lease | None) -> dict[str, Any] | None:
    return None if lease is None else _LEASE.to_representation(lease)


class Leases(APIView):
    @extend_schema(
        operation_id="leases_take",
        summary="The next comparison for you, or the one you hold",
        request=None,
        responses={
            201: OpenApiResponse(LeaseSerializer, "A new lease."),
            200: OpenApiResponse(LeaseSerializer, "The lease you hold already."),
            204: OpenApiResponse(None, "Nothing waits for you; see Retry-After."),
            **problems(403, 404, 503),
        },
        parameters=[
            OpenApiParameter(
                "Retry-After",
                int,
                OpenApiParameter.HEADER,
                description="seconds until it is worth asking again",
                response=[204],
            )
        ],
    )
    @needs(Role.ANNOTATOR)
    def post(self, request: Request, slug: str) -> Response:
        lease = leasing.take_lease(request.project, request.user)
        if lease is None:
            return Response(status=204, headers={"Retry-After": str(RETRY_SECONDS)})
        return Response(lease_json(lease), status=201 if lease.is_new else 200)


class SkipBody(Body):
    reason = serializers.CharField(
        max_length=ending.MAX_REASON, required=False, allow_blank=True, default=""
    )
    flag = serializers.ChoiceField(
        choices=Lease.Flag.choices,
        required=False,
        allow_blank=True,
        default="",
        help_text="something is wrong with the pair itself; reviewers see it",
    )


class LeaseDetail(APIView):
    @extend_schema(
        operation_id="leases_skip",
        summary="Skip it: it is not offered to you again",
        description="Reason and flag may also come in a JSON body, which goes before"
        ' the address: `{"reason": …, "flag": "unsafe"}`. The flag `other` needs a reason.'
        " A pair skipped without a flag takes one that comes later.",
        request=SkipBody,
        parameters=[
            OpenApiParameter("reason", str, description="why, if you like"),
            OpenApiParameter(
                "flag",
                str,
                enum=Lease.Flag.values,
                description="what is wrong with the pair, for reviewers to look at",
            ),
        ],
        responses={204: None, **problems(400, 404, 409, 415, 422)},
    )
    def delete(self, request: Request, key: UUID) -> Response:
        lease = showing.lease_for(request.user, key)
        # Many clients cannot send a body with DELETE, so ?reason= is read as well.
        asked, sent = request.query_params.dict(), data_of(request) or {}
        body = SkipBody(data=asked | sent if isinstance(sent, dict) else sent)
        body.is_valid(raise_exception=True)
        ending.skip(lease, **body.validated_data)
        return Response(status=204)
