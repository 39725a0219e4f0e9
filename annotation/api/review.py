"""The adjudication queue: GET it, POST what a reviewer decides, DELETE that decision.

The answers stand in the order that is fixed for this reviewer, as on the page, and every
verdict is told in it. Annotators' names are for managers who ask for them.
"""

from collections.abc import Iterator
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db.models import Prefetch
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import adjudicating, review_desk
from annotation.access import needs
from annotation.api.leases import MessageSerializer
from annotation.api.serializers import PAGES, Body, Instant, Pages, problems, read
from annotation.models import Comparison, Decision, Judgment, Role, Verdict


class ReviewBody(Body):
    verdict = serializers.ChoiceField(
        choices=adjudicating.VERDICTS,
        help_text="of the answers as the queue shows them to you; `undecidable` leaves "
        "the comparison out: no pair comes of it",
    )
    category = serializers.ChoiceField(
        choices=Decision.Category.choices,
        required=False,
        allow_blank=True,
        help_text="why annotators disagreed",
    )
    note = serializers.CharField(
        required=False,
        allow_blank=True,
        trim_whitespace=False,
        max_length=adjudicating.MAX_NOTE,
    )


class OpinionSerializer(serializers.Serializer):
    verdict = serializers.ChoiceField(choices=Verdict.choices)
    strength = serializers.IntegerField(allow_null=True)
    reasons = serializers.ListField(child=serializers.CharField())
    criteria = serializers.DictField(
        child=serializers.ChoiceField(["first", "second", "tie"]),
        help_text="criterion → the better one by it",
    )
    comment = serializers.CharField()
    edited = serializers.CharField(
        allow_null=True, help_text="the better one, improved"
    )
    seconds = serializers.FloatField()
    annotator = serializers.CharField(
        allow_null=True, help_text="null unless a manager asks with `names=1`"
    )
    is_yours = serializers.BooleanField()


class ShownAnswerSerializer(serializers.Serializer):
    text = serializers.CharField()


class WaitingSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    created_at = Instant()
    prompt = MessageSerializer(many=True)
    first = ShownAnswerSerializer()
    second = ShownAnswerSerializer()
    why = serializers.CharField(help_text="in your language")
    posterior = serializers.FloatField(
        allow_null=True,
        help_text="of the likeliest verdict, where annotators are weighed",
    )
    judgments = OpinionSerializer(many=True)


class DecisionSerializer(serializers.Serializer):
    comparison = serializers.IntegerField()
    verdict = serializers.ChoiceField(choices=adjudicating.VERDICTS)
    category = serializers.CharField()
    note = serializers.CharField()
    decided_at = Instant()


class ReviewQueue(APIView):
    pagination_class = Pages

    @extend_schema(
        operation_id="review_list",
        summary="What waits for a reviewer and you may decide, oldest first",
        parameters=[
            OpenApiParameter("names", bool, description="managers: whose judgments"),
            *PAGES,
        ],
        responses={200: WaitingSerializer(many=True), **problems(403, 404)},
    )
    @needs(Role.REVIEWER)
    def get(self, request: Request, slug: str) -> Response:
        names = request.query_params.get("names", "") in ("1", "true")
        if names and request.role != Role.MANAGER:
            raise PermissionDenied(_("Only managers may see whose judgments they are."))
        rows = review_desk.with_content(
            adjudicating.queue_for(request.project, request.user)
        ).prefetch_related(
            Prefetch("judgments", review_desk.standing_judgments()),
            Prefetch("decisions", Decision.objects.filter(superseded_at=None)),
        )
        pages = Pages()
        found = pages.paginate_queryset(rows.order_by("pk"), request, view=self)
        told = list(_waiting(found or [], request.user, names))
        return pages.get_paginated_response(WaitingSerializer(told, many=True).data)


def _waiting(
    comparisons: list[Comparison], reviewer: Any, names: bool
) -> Iterator[dict[str, Any]]:
    for comparison in comparisons:
        first, second = review_desk.answers_shown(reviewer, comparison)
        standing = next(iter(comparison.decisions.all()), None)
        yield {
            "id": comparison.pk,
            "created_at": comparison.created_at,
            "prompt": review_desk.prompt_shown(comparison),
            "first": {"text": first.text},
            "second": {"text": second.text},
            "why": review_desk.why_words(standing),
            "posterior": standing.posterior if standing else None,
            "judgments": [
                _opinion(judgment, first.pk, reviewer, names)
                for judgment in comparison.judgments.all()
            ],
        }


def _opinion(
    judgment: Judgment, first_id: int, reviewer: Any, names: bool
) -> dict[str, Any]:
    return {
        "verdict": review_desk.seen(judgment.verdict, judgment.winner_id, first_id),
        "strength": judgment.strength,
        "reasons": judgment.reasons,
        "criteria": review_desk.criteria_told(judgment, first_id),
        "comment": judgment.comment,
        "edited": judgment.edited.text if judgment.edited else None,
        "seconds": judgment.seconds,
        "annotator": judgment.annotator.get_username() if names else None,
        "is_yours": judgment.annotator_id == reviewer.pk,
    }


class ReviewDecision(APIView):
    @extend_schema(
        operation_id="review_decide",
        summary="Decide a comparison of the queue",
        description="It stands whatever the judgments say; the same again changes nothing.",
        request=ReviewBody,
        responses={
            200: OpenApiResponse(DecisionSerializer, "It stands."),
            **problems(
                400,
                404,
                415,
                422,
                p403="Your role does not allow this, or you judged it yourself.",
                p409="Another reviewer decided it, or it waits no more.",
            ),
        },
    )
    @needs(Role.REVIEWER)
    def post(self, request: Request, slug: str, pk: int) -> Response:
        body = read(request, ReviewBody)
        decision = adjudicating.settle(request.project, pk, request.user, **body)
        data = {
            "comparison": pk,
            "verdict": body["verdict"],
            "category": decision.category,
            "note": decision.note,
            "decided_at": decision.created_at,
        }
        return Response(DecisionSerializer(data).data)

    @extend_schema(
        operation_id="review_undo",
        summary="Take a reviewer's decision back: yours, or as a manager any",
        request=None,
        responses={
            204: None,
            **problems(
                404,
                p403="Your role does not allow this, or it is another reviewer's.",
                p409="None stands, or a round has taken its pair.",
            ),
        },
    )
    @needs(Role.REVIEWER)
    def delete(self, request: Request, slug: str, pk: int) -> Response:
        adjudicating.undo(
            request.project, pk, request.user, is_manager=request.role == Role.MANAGER
        )
        return Response(status=204)
