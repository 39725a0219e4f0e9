"""What a sweep found: trials ranked by what can be compared, and how sure that is.

Losses of one kind with one beta are compared as they are. Losses of different kinds or
betas measure different things, so trials are then ranked by held-out accuracy (a tie
counts half), equal ones by log-odds: how much more the policy favours the chosen answer
than its reference does, in nats (the margin divided by beta). Differences to the best
are taken pair by pair and resampled by prompt (`intervals.py`). Leaves out running
trials; see `sweep.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.dpo.intervals import (
    LEVEL,
    Interval,
    clusters_of,
    difference,
    mean_intervals,
    share_interval,
)
from training.dpo.loss_facts import reads_reference

SHAPES_LOSS = (
    *("loss", "beta", "label_smoothing", "ld_alpha"),
    *("simpo_gamma", "discopop_tau", "desirable_weight", "undesirable_weight"),
)
"""Config keys that change what a loss measures; equal ones, and the same reference,
make losses comparable."""

SHAPES_SFT = (
    *("sft_epochs", "sft_learning_rate", "batch_size", "seed", "shuffle", "lora"),
    *("tuning", "warmup_ratio", "lr_scheduler", "weight_decay", "max_grad_norm"),
)
"""Config keys that change where supervised training ends, which is then the reference."""

POWER = 1.96 + 0.84
"""Standard errors that a difference must be away from 0 to be found four times in five
by a two-sided test at 5 %."""

TOO_COARSE = 0.2
"""If no smaller difference of accuracies could be seen, the ranking says little."""

FEWEST_PROMPTS = 20
"""Intervals resampled from fewer prompts are too narrow to be trusted."""

WISHED = 0.05
"""A difference of accuracies that one would like to see."""


@dataclass(frozen=True)
class Trial:
    """A finished trial and its held-out rows.

    `rows`: of each held-out pair {"id", "line", "right", "margin", "loss"}; `prompts`:
    which prompt each row is of; `weights`: of the pairs. `config`: with all defaults,
    and with what was chosen where config.json left it open.
    """

    name: str
    values: Mapping[str, Any]
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    prompts: Sequence[Any]
    weights: Sequence[float]
    told: Mapping[str, Any]

    def figures(self) -> dict[str, list[float]]:
        """{"accuracy", "log_odds", "loss"} of each row."""
        return {
            "accuracy": [float(row["right"]) for row in self.rows],
            "log_odds": [row["margin"] / self.config["beta"] for row in self.rows],
            "loss": [row["loss"] for row in self.rows],
        }

    def places(self) -> list[Any]:
        """Which rows were measured."""
        return [(row["id"], row["line"]) for row in self.rows]


def rank(trials: Sequence[Trial]) -> dict[str, Any]:
    """sweep.json's figures: trials best first, and what may be concluded.

    Raises ValueError for no trial at all.
    """
    by_loss = len({_shape(trial) for trial in trials}) == 1
    told = [_figures(trial) for trial in trials]

    def order(index: int) -> tuple[float, float]:
        found = told[index]
        if by_loss:
            return found["loss"].value, -found["accuracy"].value
        return -found["accuracy"].value, -found["log_odds"].value

    places = sorted(range(len(trials)), key=order)
    best = trials[places[0]]
    ranked = []
    for number, index in enumerate(places, start=1):
        trial = trials[index]
        to_best = None if trial is best else _to_best(trial, best, by_loss)
        ranked.append(
            {
                "rank": number,
                "name": trial.name,
                "values": dict(trial.values),
                **{name: found.as_dict() for name, found in told[index].items()},
                **trial.told,
                "to_best": to_best,
            }
        )
    prompts = len(set(best.prompts))
    spread = _spread(trials, best)
    seen = POWER * spread / math.sqrt(prompts)
    return {
        "ranked_by": "loss" if by_loss else "accuracy",
        "why": _why(by_loss),
        "held_out": {"pairs": len(best.rows), "prompts": prompts},
        "smallest_visible_difference": min(1.0, round(seen, 3)),
        "prompts_for_a_difference_of_0.05": _prompts_for(WISHED, spread),
        "says": _sentences(trials, ranked, prompts, seen, spread, by_loss),
        "trials": ranked,
    }


def _shape(trial: Trial) -> str:
    return repr([_reference(trial), *(trial.config.get(key) for key in SHAPES_LOSS)])


def _reference(trial: Trial) -> str:
    """Trials that give the same have the same reference, or both none."""
    config, loss = trial.config, trial.config["loss"]
    names = [loss] if isinstance(loss, str) else list(loss)
    if not reads_reference(names, config["reference"]):
        return "none"
    parent, sft_epochs = config.get("parent_adapter"), config.get("sft_epochs")
    if config["reference"] == "base" or not (parent or sft_epochs):
        return "base"
    return repr([parent, *(config.get(key) for key in SHAPES_SFT if sft_epochs)])


def _why(by_loss: bool) -> str:
    if by_loss:
        return "all trials have one loss and beta, so their losses can be compared"
    return (
        "losses of different kinds or betas cannot be compared; accuracies can (equal"
        " ones by log-odds)"
    )


def _figures(trial: Trial) -> dict[str, Interval]:
    figures, clusters = trial.figures(), clusters_of(trial.prompts)
    loss = {"loss": figures["loss"]}
    return {
        "accuracy": share_interval(figures["accuracy"], clusters),
        **mean_intervals({"log_odds": figures["log_odds"]}, clusters),
        **mean_intervals(loss, clusters, trial.weights),
    }


def _to_best(trial: Trial, best: Trial, by_loss: bool) -> dict[str, Any] | None:
    """Trial − best, pair by pair; None if other rows were measured."""
    if trial.places() != best.places():
        return None
    own, its, clusters = trial.figures(), best.figures(), clusters_of(best.prompts)
    found = {
        name: difference({name: own[name]}, its, clusters)[name]
        for name in ("accuracy", "log_odds")
    }
    if by_loss:
        found |= difference({"loss": own["loss"]}, its, clusters, best.weights)
    deciding = found["loss" if by_loss else "accuracy"]
    apart = deciding.low is not None and not (
        deciding.low <= 0 <= (deciding.high or 0.0)
    )
    return {
        **{name: interval.as_dict() for name, interval in found.items()},
        "told_apart": apart,
    }


def _spread(trials: Sequence[Trial], best: Trial) -> float:
    """Standard deviation over prompts of the difference of two trials' accuracies.

    The largest seen against the best, but at least what one more prompt that they
    disagree on, and one that they agree on, would make it: few prompts look quiet.
    """
    clusters = clusters_of(best.prompts)
    counts = np.bincount(clusters)
    widest = 0.0
    for trial in trials:
        if trial is not best and trial.places() == best.places():
            apart = np.subtract(trial.figures()["accuracy"], best.figures()["accuracy"])
            means = np.bincount(clusters, apart) / counts
            widest = max(widest, float(np.square(means).sum()))
    return math.sqrt((widest + 1) / (len(counts) + 2))


def _prompts_for(gap: float, spread: float) -> int:
    return math.ceil((POWER * spread / gap) ** 2)


def _sentences(
    trials: Sequence[Trial],
    ranked: Sequence[Mapping[str, Any]],
    prompts: int,
    seen: float,
    spread: float,
    by_loss: bool,
) -> list[str]:
    first, others = ranked[0], ranked[1:]
    says = []
    alike = [
        t["name"] for t in others if t["to_best"] and not t["to_best"]["told_apart"]
    ]
    if seen > TOO_COARSE and (alike or prompts < FEWEST_PROMPTS):
        says.append(
            f"Too few held-out prompts to rank by accuracy: with {prompts} only"
            f" differences of {min(1.0, seen):.2f} or more could be seen; to see one of"
            f" {WISHED}, some {_prompts_for(WISHED, spread)} prompts are needed."
        )
    if alike:
        shown = "; ".join(alike[:5]) + (
            f"; and {len(alike) - 5} more" * (len(alike) > 5)
        )
        says.append(
            f"These cannot be told apart from the best, {first['name']}, at"
            f" {LEVEL:.0%}: {shown}."
        )
        gap = abs(first["accuracy"]["value"] - others[0]["accuracy"]["value"])
        if not by_loss and others[0]["name"] in alike and gap > 0:
            says.append(
                f"To settle the first against the second (accuracies {gap:.2f} apart),"
                f" some {_prompts_for(gap, spread)} prompts would be needed."
            )
    elif others and all(trial["to_best"] for trial in others):
        says.append(
            f"{first['name']} is better than each of the others at {LEVEL:.0%}."
        )
    if len({_reference(trial) for trial in trials}) > 1:
        says.append(
            "Not all trials have the same reference: an accuracy tells which answer the"
            " policy favours more than its own reference does (without one, which it"
            " favours), so compare these with care."
        )
    if any(trial["to_best"] is None for trial in others):
        says.append("Trials measured on other rows are listed without a difference.")
    for trial in ranked:
        lowest = trial.get("lowest_loss")
        if lowest and lowest["before_end"]:
            says.append(
                f"{trial['name']} trained past its best: its held-out loss was lowest at"
                f" step {lowest['step']} of {trial['steps']} ({lowest['loss']:.3f}, at the"
                f" end {trial['loss']['value']:.3f})."
            )
    return says


def table(report: Mapping[str, Any]) -> str:
    """The ranking as lines of text for a terminal."""
    head = ["", "trial", "accuracy", "log-odds", "loss", "drift +/-", "to best"]
    deciding = report["ranked_by"]
    lines = [head]
    for trial in report["trials"]:
        to_best = trial["to_best"]
        lines.append(
            [
                str(trial["rank"]),
                trial["name"],
                *(_ends(trial[name]) for name in ("accuracy", "log_odds", "loss")),
                " ".join(
                    "?" if d is None else f"{d:+.2f}" for d in trial["drift"].values()
                ),
                _ends(to_best[deciding], "+") if to_best else "",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _ends(interval: Mapping[str, float | None], sign: str = "") -> str:
    told = f"{interval['value']:{sign}.3f}"
    if interval["low"] is None:
        return told
    return f"{told} ({interval['low']:{sign}.3f} to {interval['high']:{sign}.3f})"
