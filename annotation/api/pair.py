"""One pair: GET it with what the rules say, let it through or take that back, repair it."""

from typing import Any

from drf_spectacular.utils import OpenApiResponse, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import reviewing
from annotation.access import needs
from annotation.api.serializers import Body, Instant, problems, read
from annotation.exporting import answer_messages, prompt_messages
from annotation.models import Completion, PreferencePair, Role, RuleVerdict
from annotation.queries import rule_label
from annotation.retelling import retold


class VerdictSerializer(serializers.Serializer):
    rule = serializers.CharField()
    label = serializers.SerializerMethodField(help_text="the same in your language")
    result = serializers.ChoiceField(choices=RuleVerdict.Result.choices)
    reason = serializers.SerializerMethodField(help_text="in your language")
    params = serializers.DictField(help_text="what the rule was asked with")
    measured = serializers.FloatField(
        allow_null=True, help_text="the number a parameter was held against"
    )
    let_through = serializers.BooleanField(source="is_let_through")

    def get_label(self, verdict: RuleVerdict) -> str:
        return rule_label(verdict.rule)

    def get_reason(self, verdict: RuleVerdict) -> str:
        return str(retold(verdict.reason))


class LetThroughSerializer(serializers.Serializer):
    by = serializers.CharField(source="by.username")
    note = serializers.CharField()
    rules = serializers.ListField(child=serializers.CharField())
    created_at = Instant()
    taken_back_by = serializers.CharField(
        source="taken_back_by.username", allow_null=True, default=None
    )
    taken_back_at = Instant(allow_null=True)


class SideSerializer(serializers.Serializer):
    text = serializers.CharField()
    messages = serializers.SerializerMethodField(
        help_text="the same as messages: an imported answer may be several"
    )
    source = serializers.ChoiceField(choices=Completion.Source.choices)

    def get_messages(self, completion: Completion) -> list[dict[str, Any]]:
        return answer_messages(completion)


class PairSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    kind = serializers.ChoiceField(choices=PreferencePair.Kind.choices)
    state = serializers.ChoiceField(choices=PreferencePair.State.choices)
    is_due = serializers.BooleanField(
        help_text="the rules were changed since: state and verdicts are as of the former "
        "ones until it has been checked again"
    )
    weight = serializers.FloatField()
    held_out = serializers.BooleanField(source="prompt.is_held_out")
    prompt = serializers.SerializerMethodField()
    chosen = SideSerializer()
    rejected = SideSerializer()
    created_at = Instant()
    frozen_at = Instant(
        allow_null=True, help_text="when a round took it; then it never changes"
    )
    superseded_at = Instant(allow_null=True, help_text="when another took its place")
    repaired_from = serializers.IntegerField(source="repaired_from_id", allow_null=True)
    repaired_by = serializers.CharField(
        source="repairer.username", allow_null=True, default=None
    )
    repair_note = serializers.CharField()
    replaced_by = serializers.IntegerField(
        source="repaired_by_pair.pk",
        allow_null=True,
        default=None,
        help_text="the pair that a repair made of it",
    )
    verdicts = serializers.SerializerMethodField()
    let_throughs = serializers.SerializerMethodField(
        help_text="the last one stands while nobody took it back"
    )

    def get_prompt(self, pair: PreferencePair) -> list[dict[str, Any]]:
        return prompt_messages(pair)

    @extend_schema_field(VerdictSerializer(many=True))
    def get_verdicts(self, pair: PreferencePair) -> list[dict[str, Any]]:
        return VerdictSerializer(pair.verdicts.order_by("id"), many=True).data

    @extend_schema_field(LetThroughSerializer(many=True))
    def get_let_throughs(self, pair: PreferencePair) -> list[dict[str, Any]]:
        words = pair.let_throughs.select_related("by", "taken_back_by")
        return LetThroughSerializer(words, many=True).data


class LetThroughBody(Body):
    note = serializers.CharField(
        max_length=reviewing.MAX_NOTE, help_text="why it is good all the same"
    )


class RepairBody(Body):
    chosen = serializers.CharField(
        required=False,
        allow_blank=True,
        trim_whitespace=False,
        help_text="the answer as it is to be; left out, it stays",
    )
    rejected = serializers.CharField(
        required=False, allow_blank=True, trim_whitespace=False
    )
    note = serializers.CharField(
        default="",
        allow_blank=True,
        max_length=reviewing.MAX_NOTE,
        help_text="what was wrong",
    )


CHANGED = "A round has taken it, it was replaced meanwhile, or it waits for its check."


class Pair(APIView):
    @extend_schema(
        operation_id="pairs_get",
        summary="A pair, what each rule says of it, and what reviewers did",
        description="`GET pairs?which=rejected&format=csv` names pairs by their `id`.",
        responses={200: PairSerializer, **problems(403, 404)},
    )
    @needs(Role.REVIEWER)
    def get(self, request: Request, slug: str, pk: int) -> Response:
        return _answer(reviewing.pair_of(request.project, pk))


class PairLetThrough(APIView):
    @extend_schema(
        operation_id="pairs_let_through",
        summary="Have a pair train though rules object: those that do now",
        request=LetThroughBody,
        responses={
            200: PairSerializer,
            **problems(400, 403, 404, 415, 422, p409=CHANGED + " Or no rule objects."),
        },
    )
    @needs(Role.REVIEWER)
    def post(self, request: Request, slug: str, pk: int) -> Response:
        pair = reviewing.pair_of(request.project, pk)
        reviewing.let_through(pair, request.user, **read(request, LetThroughBody))
        return _answer(reviewing.pair_of(request.project, pk))

    @extend_schema(
        operation_id="pairs_take_back",
        summary="Let the rules count again",
        request=None,
        responses={
            200: PairSerializer,
            **problems(403, 404, p409=CHANGED + " Or nobody let it through."),
        },
    )
    @needs(Role.REVIEWER)
    def delete(self, request: Request, slug: str, pk: int) -> Response:
        reviewing.take_back(reviewing.pair_of(request.project, pk), request.user)
        return _answer(reviewing.pair_of(request.project, pk))


class PairRepair(APIView):
    @extend_schema(
        operation_id="pairs_repair",
        summary="Edit one or both answers: a new pair takes this one's place",
        description="The rules are asked of the new one; this one is kept, linked.",
        request=RepairBody,
        responses={
            201: OpenApiResponse(PairSerializer, "The new pair."),
            **problems(400, 403, 404, 415, 422, p409=CHANGED),
        },
    )
    @needs(Role.REVIEWER)
    def post(self, request: Request, slug: str, pk: int) -> Response:
        pair = reviewing.pair_of(request.project, pk)
        as_is = {"chosen": pair.chosen.text, "rejected": pair.rejected.text}
        made = reviewing.repair(pair, request.user, **as_is | read(request, RepairBody))
        return _answer(reviewing.pair_of(request.project, made.pk), status=201)


def _answer(pair: PreferencePair, status: int = 200) -> Response:
    return Response(PairSerializer(pair).data, status=status)
