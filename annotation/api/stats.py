"""GET stats: the funnel, agreement, bias, and who did how much. What isn't measured yet
is null.
"""

from typing import Any

from django.utils.http import http_date
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from annotation import annotators, figures, sways, trust
from annotation.access import at_least, needs
from annotation.api.serializers import Instant, problems
from annotation.models import Role
from annotation.retelling import retold
from annotation.standing import full_hour

PARTS = ("funnel", "agreement", "bias", "annotators", "rounds")
PRIVATE = "null but for managers and the person"
ABOUT_PEOPLE = "all for managers; else those about yourself, as of the last full hour"
BLUNT = "but for managers and the person: "
HIDDEN = {"median_seconds": None, "agreement": None, "first": None}


class NotCounted(APIException):
    status_code = 503
    default_detail = _("The figures are being counted. Ask again in a minute.")
    default_code = "not_counted"
    wait = 60


class FunnelStepSerializer(serializers.Serializer):
    step = serializers.CharField()
    label = serializers.CharField(help_text="the same in your language")
    count = serializers.IntegerField()
    lost = serializers.DictField(
        child=serializers.IntegerField(), help_text="rule or reason → how many"
    )
    could_not_check = serializers.IntegerField(
        required=False, help_text="of a rule: passed on, marked"
    )
    let_through = serializers.IntegerField(
        required=False, help_text="of the accepted: against a rule, by a reviewer"
    )
    due = serializers.IntegerField(
        required=False,
        help_text="of the checked: as the former rules left them, being checked again",
    )


class ShareSerializer(serializers.Serializer):
    count = serializers.IntegerField()
    of = serializers.IntegerField()
    value = serializers.FloatField(allow_null=True)
    low = serializers.FloatField(allow_null=True, help_text="of its 95 % interval")
    high = serializers.FloatField(allow_null=True)


class ChecksSerializer(serializers.Serializer):
    gold = ShareSerializer(help_text="right, of the latest gold")
    gold_seen = serializers.IntegerField(help_text="gold judged in all")
    consistency = ShareSerializer(
        source="consistent", help_text="the same when their own pair came again"
    )
    too_fast = ShareSerializer(help_text="far below their own pace, of recent ones")
    waiting = serializers.IntegerField(help_text="judgments that wait for review")
    below_floor = serializers.BooleanField(source="is_below")


class FigureSerializer(serializers.Serializer):
    value = serializers.FloatField(allow_null=True, help_text="1: full, 0: by chance")
    low = serializers.FloatField(
        allow_null=True, help_text="of its 95 % interval; null below ten comparisons"
    )
    high = serializers.FloatField(allow_null=True)
    units = serializers.IntegerField(help_text="comparisons judged more than once")


class TogetherSerializer(serializers.Serializer):
    annotators = serializers.ListField(
        child=serializers.CharField(), min_length=2, max_length=2
    )
    cohen_kappa = FigureSerializer(source="kappa")


class WeekSerializer(serializers.Serializer):
    start = serializers.DateField(help_text="its Monday")
    krippendorff_alpha = FigureSerializer(source="alpha")


class AgreementSerializer(serializers.Serializer):
    krippendorff_alpha = FigureSerializer(source="alpha")
    fleiss_kappa = FigureSerializer(source="fleiss")
    pairs = TogetherSerializer(many=True, help_text=ABOUT_PEOPLE)
    weeks = WeekSerializer(many=True)


class AnnotatorSerializer(serializers.Serializer):
    username = serializers.CharField()
    judgments = serializers.IntegerField(help_text="that stand")
    mean_seconds = serializers.FloatField(
        allow_null=True, help_text=BLUNT + "to the second"
    )
    last_at = Instant(allow_null=True, help_text=BLUNT + "to the full hour")
    skips = serializers.IntegerField()
    median_seconds = serializers.FloatField(
        allow_null=True, help_text="to a tenth; this and what follows: " + PRIVATE
    )
    agreement = ShareSerializer(
        allow_null=True,
        help_text="verdicts of others on the same comparisons that theirs was the same as",
    )
    first = ShareSerializer(
        allow_null=True, help_text="verdicts for one answer: for the one shown first"
    )
    checks = ChecksSerializer(
        allow_null=True, help_text="of yourself, as of the last full hour"
    )


class SwayedSerializer(serializers.Serializer):
    first = ShareSerializer(help_text="for the answer shown first; half is expected")
    longer = ShareSerializer(help_text="for the longer one, where lengths differ")
    marked = ShareSerializer(help_text="for the one with more Markdown, likewise")
    own = ShareSerializer(
        help_text="for the one in the prompt’s script, where one alone is"
    )
    strayed = ShareSerializer(
        help_text="winners in another script than the prompt, of all with letters"
    )


class SwayedAnnotatorSerializer(SwayedSerializer):
    username = serializers.CharField()


class FlagSerializer(serializers.Serializer):
    sway = serializers.ChoiceField(choices=sways.SWAYS)
    share = ShareSerializer(help_text="its whole interval lies beyond what is usual")
    username = serializers.CharField(allow_null=True, help_text="null: of everybody")


class PairsBiasSerializer(SwayedSerializer):
    pairs = serializers.IntegerField()
    flags = FlagSerializer(many=True)


class NextRoundSerializer(PairsBiasSerializer):
    annotators = SwayedAnnotatorSerializer(many=True)


class PastRoundSerializer(PairsBiasSerializer):
    number = serializers.IntegerField()
    id = serializers.IntegerField(source="pk")
    state = serializers.CharField()


class BiasSerializer(SwayedSerializer):
    annotators = SwayedAnnotatorSerializer(many=True, help_text=ABOUT_PEOPLE)
    flags = FlagSerializer(many=True)
    next_round = NextRoundSerializer(
        help_text="of the sound pairs that no usable round has trained on"
    )
    rounds = PastRoundSerializer(many=True, help_text="of their pairs; newest first")


class StatsSerializer(serializers.Serializer):
    funnel = FunnelStepSerializer(many=True)
    agreement = AgreementSerializer(
        allow_null=True, help_text="null: nothing was judged by two people"
    )
    bias = BiasSerializer(
        allow_null=True,
        help_text="shares of the verdicts for one answer; null where there is none",
    )
    annotators = AnnotatorSerializer(
        many=True,
        help_text="for others than managers their own row is of the last full hour",
    )


class Stats(APIView):
    @extend_schema(
        operation_id="stats_read",
        summary="The funnel from judgments to pairs, agreement, each one's share",
        description=(
            "Of a big project a worker counts these now and then: Last-Modified says"
            " when. Before it has done so once, 503 with Retry-After."
        ),
        responses={200: StatsSerializer, **problems(403, 404, p503="not counted yet")},
    )
    @needs(Role.REVIEWER)
    def get(self, request: Request, slug: str) -> Response:
        told = () if at_least(request.role, Role.MANAGER) else ("told",)
        known = figures.of(request.project, *PARTS, *told)
        if known.is_pending:
            raise NotCounted
        seen = annotators.for_reader(known, request.role, request.user)
        data = {
            "funnel": [
                step | {"label": retold(step["label"])} for step in known["funnel"]
            ],
            "agreement": seen["agreement"],
            "bias": _bias(request, seen["bias"], known["rounds"]),
            "annotators": _annotators(request, known),
        }
        headers = {}
        if known.as_of:
            headers["Last-Modified"] = http_date(known.as_of.timestamp())
        return Response(StatsSerializer(data).data, headers=headers)


def _annotators(request: Request, known: Any) -> list[dict[str, Any]]:
    """Who did how much; what is known of each only for those who may know it."""
    rest, rows = None, annotators.rows(known)
    if at_least(request.role, Role.MANAGER):
        checks, rest = trust.checks(request.project), trust.NOTHING
    else:
        me = request.user.username
        checks = {me: trust.told_to(request.project, request.user)}
        mine = annotators.own_row(known["told"], request.user)
        rows = [mine if row["username"] == me else _blunt(row) for row in rows]
    return [row | {"checks": checks.get(row["username"], rest)} for row in rows]


def _blunt(row: dict[str, Any]) -> dict[str, Any]:
    """Somebody else's row: neither what is theirs alone to know, nor figures as exact as
    those of an export, which beside it would tell whose a pseudonym is."""
    seconds, last_at = row["mean_seconds"], row["last_at"]
    return (
        row
        | HIDDEN
        | {
            "mean_seconds": None if seconds is None else float(round(seconds)),
            "last_at": last_at and full_hour(last_at),
        }
    )


def _bias(
    request: Request, bias: dict[str, Any] | None, rounds: dict[str, Any]
) -> dict[str, Any] | None:
    coming = rounds["next"]
    if bias is None and not coming["pairs"]:
        return None
    # Only imported pairs: nobody preferred anything, and yet they will train.
    bias = bias or sways.NOBODYS
    return bias | {
        "next_round": coming
        | {
            "annotators": _seen(request, coming["annotators"]),
            "flags": _seen(request, coming["flags"]),
        },
        "rounds": rounds["past"],
    }


def _seen(request: Request, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of rows about people those the reader may see, and those about everybody."""
    of_all = [row for row in rows if not row["username"]]
    people = [row for row in rows if row["username"]]
    return of_all + annotators.visible(people, request.role, request.user)
