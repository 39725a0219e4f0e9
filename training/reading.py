"""What a round's curves say, in plain words.

Rules of thumb, each with the figure it rests on; they look at the curves alone and
say nothing about what people prefer. Leaves out drawing; see static/round.js.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from annotation.retelling import retold
from training.queries import Curves, Rows, is_number

EARLIEST = 5
"""Steps below which curves say nothing."""

FEW_HELD_OUT = 30
"""Of n pairs at 50 %, one standard error is 9 percentage points for n = 30."""

FLAT = 0.01
"""How near to ln 2 a loss still counts as unmoved."""

FLAT_MARGIN = 2 * FLAT
"""A margin that moves the sigmoid loss by `FLAT` from ln 2, where its slope is a half."""


@dataclass(frozen=True)
class Remark:
    """`tone` is "", "good" or "warn"."""

    tone: str
    text: str


def read_curves(
    curves: Curves,
    n_pairs: int,
    is_finished: bool,
    n_held_out: int | None = None,
    warned: Collection[str] = (),
) -> list[Remark]:
    """Remarks on a round's DPO steps so far. `n_held_out`: pairs, None if not known;
    `warned`: codes of what `trainer_remarks` tells beside these."""
    if len(curves.drawn) < EARLIEST:
        return []
    remarks = [
        *_loss(curves, "stuck" in warned),
        *_rewards(curves, "displacement" in warned),
        *_held_out(curves.evaluated, is_finished, n_held_out),
    ]
    if not is_finished:
        return remarks
    return remarks + _fit(curves, n_pairs)


def read_supervised(curves: Curves) -> list[Remark]:
    """Remarks on a round's supervised steps so far, where it has enough of them."""
    if len(curves.drawn) < EARLIEST:
        return []
    loss, accuracy = _ends(curves, "loss"), _ends(curves, "mean_token_accuracy")
    if loss is None or accuracy is None:
        return []
    figures = {
        "start": loss[0],
        "end": loss[1],
        "hits": 100 * accuracy[0],
        "hits_after": 100 * accuracy[1],
    }
    if loss[1] > loss[0] + 0.05:
        return [
            Remark(
                "warn",
                _(
                    "In supervised training the loss rises, from %(start).3f to"
                    " %(end).3f: its learning rate is probably too high."
                )
                % figures,
            )
        ]
    text = _(
        "Supervised training on the chosen answers took its loss from %(start).3f to"
        " %(end).3f; the next token it finds likeliest is right for %(hits_after).0f %%"
        " of them, before %(hits).0f %%."
    )
    return [Remark("", text % figures)]


def _ends(curves: Curves, name: str) -> tuple[float, float] | None:
    """Means of the first and of the last tenth of a curve, None where one has gaps only."""
    first, last = (
        [value for _step, row in rows if is_number(value := row.get(name))]
        for rows in (curves.first, curves.last)
    )
    return (fmean(first), fmean(last)) if first and last else None


def _loss(curves: Curves, is_stuck_told: bool) -> list[Remark]:
    """What the loss says, and whether anything was learned: of losses that start at
    ln 2 it tells so itself, of others (a mix with cross-entropy) the margin does."""
    ends, margins = _ends(curves, "loss"), _ends(curves, "rewards/margins")
    if ends is None:
        return []
    start, end = ends
    untrained = math.log(2)
    from_ln_2 = abs(start - untrained) < 0.05
    if not is_stuck_told and from_ln_2 and abs(end - untrained) < FLAT:
        return [
            Remark(
                "warn",
                _(
                    "The loss stays near 0.693, which is what guessing gives: so far the"
                    " policy has learned next to nothing. If it stays so to the end,"
                    " raise the learning rate or the epochs."
                ),
            )
        ]
    if end > start + 0.05:
        return [
            Remark(
                "warn",
                _(
                    "The loss rises, from %(start).3f to %(end).3f: the learning rate is"
                    " probably too high."
                )
                % {"start": start, "end": end},
            )
        ]
    text = _("The loss went from %(start).3f to %(end).3f.")
    if from_ln_2:
        text = _("The loss went from %(start).3f to %(end).3f; guessing gives 0.693.")
    remarks = [Remark("", text % {"start": start, "end": end})]
    is_flat = margins is not None and max(map(abs, margins)) < FLAT_MARGIN
    if not is_stuck_told and not from_ln_2 and is_flat:
        remarks.append(
            Remark(
                "warn",
                _(
                    "The margin stays near 0, which is what guessing gives: so far the"
                    " policy has learned next to nothing of the comparisons. If it stays"
                    " so to the end, raise the learning rate or the epochs."
                ),
            )
        )
    return remarks


def _rewards(curves: Curves, is_displacement_told: bool) -> list[Remark]:
    """What the rewards say. Where the trainer warned that both answers lose, that both
    fall is neither said twice nor called expected."""
    chosen, rejected, margins = (
        _ends(curves, f"rewards/{name}") for name in ("chosen", "rejected", "margins")
    )
    if chosen is None or rejected is None or margins is None:
        return []
    grows = margins[1] > margins[0] + 0.02
    if not grows:
        return []
    both_fall = chosen[1] < chosen[0] - 0.02 and rejected[1] < rejected[0] - 0.02
    if both_fall and is_displacement_told:
        return []
    if both_fall and chosen[1] < -1 and chosen[1] < 0.7 * rejected[1]:
        return [
            Remark(
                "warn",
                _(
                    "The chosen answers lose nearly as much as the rejected ones"
                    " (%(chosen).2f and %(rejected).2f): the policy moves away from both."
                    " A larger beta, fewer epochs or more varied pairs hold it."
                )
                % {"chosen": chosen[1], "rejected": rejected[1]},
            )
        ]
    if both_fall:
        return [
            Remark(
                "good",
                _(
                    "Both rewards fall while the margin rises. That is expected: DPO only"
                    " asks for a gap between the two, and the likelihood taken from the"
                    " rejected answers is partly taken from similar chosen ones too."
                ),
            )
        ]
    return [
        Remark(
            "good",
            _(
                "The margin rose from %(start).2f to %(end).2f: the policy tells the"
                " chosen answers from the rejected ones more clearly than its reference."
            )
            # Adding 0.0 turns the -0.0 of a tiny negative start into 0.0.
            % {"start": round(margins[0], 2) + 0.0, "end": margins[1]},
        )
    ]


def _held_out(rows: Rows, is_finished: bool, n_held_out: int | None) -> list[Remark]:
    scored = [
        (accuracy, row.get("eval_rewards/margins"))
        for _step, row in rows
        if is_number(accuracy := _accuracy(row))
    ]
    if not scored:
        if not is_finished:
            return []
        return [
            Remark(
                "",
                _(
                    "No pairs are held out, so these curves only show how well the pairs"
                    " were learned, not whether anything else got better."
                ),
            )
        ]
    accuracy, margin = scored[0]
    if len(scored) == 1 and margin == 0 and not is_finished:
        return []  # All ties so far: 50 %, and an interval from 50 to 50.
    # A fresh adapter has no preference yet: every margin is 0 and none counts as right.
    before = 50.0 if margin == 0 else 100 * accuracy
    now = 100 * scored[-1][0]
    text = _("On pairs it never trains on, it ranks %(now).0f %% as people did.")
    if len(scored) > 1 and margin != 0:
        text = _(
            "On pairs it never trains on, it ranks %(now).0f %% as people did;"
            " %(before).0f %% at the start."
        )
    text = text % {"now": now, "before": before} + _reach(rows)
    if n_held_out is not None and n_held_out < FEW_HELD_OUT:
        text += " " + ngettext(
            "With %(count)d such pair that is a hint, not a measure.",
            "With %(count)d such pairs that is a hint, not a measure.",
            n_held_out,
        ) % {"count": n_held_out}
        return [Remark("", text)]
    if len(scored) > 1 and now < before - 5:
        return [
            Remark(
                "warn",
                text + " " + _("That is worse: it learned these pairs by heart."),
            )
        ]
    return [Remark("good" if now > before + 5 else "", text)]


def _accuracy(row: dict) -> Any:
    """With ties as one half where the trainer counted them so."""
    strict = row.get("eval_rewards/accuracies")
    return row.get("eval_rewards/accuracies_ties_half", strict)


def _reach(rows: Rows) -> str:
    """How far another set of held-out prompts could lie off, from the last evaluation."""
    ends = [
        [row.get(f"eval_rewards/accuracies_ties_half/{end}") for end in ("low", "high")]
        for _step, row in rows
        if is_number(_accuracy(row))
    ][-1]
    if not all(is_number(end) for end in ends):
        return ""
    said = _("With other prompts like these it could be %(low).0f to %(high).0f %%.")
    return " " + said % {"low": 100 * ends[0], "high": 100 * ends[1]}


SAID_OF_CURVES = ("no_held_out", "few_held_out")
"""Warnings of the trainer that the remarks on the curves give as well."""


def warned_of(summary: dict[str, Any]) -> set[str]:
    """Codes of what the trainer warned of."""
    return {warning["code"] for warning in summary.get("warnings") or []}


def trainer_remarks(summary: dict[str, Any]) -> list[Remark]:
    """What the trainer warned of, as its summary.json has it in the end."""
    warnings = summary.get("warnings") or []
    return [
        Remark("warn", retold(warning["text"]))
        for warning in warnings
        if warning["code"] not in SAID_OF_CURVES
    ]


def _fit(curves: Curves, n_pairs: int) -> list[Remark]:
    accuracy, loss = _ends(curves, "rewards/accuracies"), _ends(curves, "loss")
    if accuracy is None or loss is None:
        return []
    if accuracy[1] > 0.99 and loss[1] < 0.05:
        return [
            Remark(
                "warn",
                _(
                    "Every one of the %(count)d pairs is ranked right with a loss near 0:"
                    " they are known by heart. More pairs help more than more epochs now."
                )
                % {"count": n_pairs},
            )
        ]
    return []
