"""KTO and its kin over a step or a set of labelled answers: gradient and figures.

All answers of a step share one estimate of the KL to the reference, from the strays of
the whole step (`strays.py`), taken first and without gradients: a step's split into forward
passes changes nothing. Leaves out pairs; see `step.py` and `evaluate.py`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from training.dpo.answer_figures import AnswerFigures
from training.dpo.backward import backward_each
from training.dpo.batches import Row, pair_rows
from training.dpo.distributed import gathered, merge
from training.dpo.forward import Engine, score_set
from training.dpo.loss import Objective, answer_losses
from training.dpo.loss_inputs import AnswerLogps
from training.dpo.reference import PairSet
from training.dpo.run_state import Run

OWN, STRAY = 0, 1
"""An Answer's rows, as `pair_rows` gives them."""


def backward_answers(run: Run, indexes: list[int]) -> AnswerFigures:
    """Add the gradient of Σ weight·loss / Σ weight over `indexes` to the parameters."""
    answers: Sequence[Any] = run.data.pairs
    total = sum(answers[index].weight for index in indexes)
    figures = AnswerFigures(run.objective)
    if needs_kl(run.objective):
        figures.kl = kl_estimate(_stray_ratios(run, indexes))

    def loss_of(part: list[int]) -> tuple[Tensor, tuple[Any, ...]]:
        scores = run.engine.score(_rows(run, part, OWN))
        logps = logps_of(scores.logps, run.data, part, figures.kl)
        losses = answer_losses(run.objective.weights, logps, run.objective.settings)
        shares = losses.new_tensor([answers[index].weight / total for index in part])
        return (losses * shares).sum(), (part, scores, losses, logps)

    parts = _split(run, indexes, OWN)
    for part, scores, losses, logps in backward_each(run, loss_of, parts):
        base = run.data.base.chosen[part].tolist()
        figures.add(answers, part, scores, base, losses, logps)
    return figures


def evaluate_answers(
    engine: Engine, data: PairSet, objective: Objective, each: Callable[[int], None]
) -> AnswerFigures:
    """Every answer's figures under the policy as it stands, all of them as one step."""
    answers: Sequence[Any] = data.pairs
    parts = list(score_set(engine, data.pairs, each))
    figures = AnswerFigures(objective)
    if needs_kl(objective):
        strays = ((part, scores.logps[len(part) :]) for part, scores in parts)
        figures.kl = kl_estimate(_weighted_ratios(data, strays))
    for part, scores in parts:
        logps = logps_of(scores.logps[: len(part)], data, part, figures.kl)
        losses = answer_losses(objective.weights, logps, objective.settings)
        base = data.base.chosen[part].tolist()
        figures.add(answers, part, scores, base, losses, logps)
    merge(figures)
    return figures


def needs_kl(objective: Objective) -> bool:
    """Whether a loss measures against the drift of other answers; else there are no
    strays."""
    return "kto" in objective.weights


def kl_estimate(strays: Sequence[tuple[float, float]]) -> Tensor:
    """Mean log-ratio of all processes' strays, (weight, log-ratio) each, at least 0: ()."""
    known = [stray for part in gathered(list(strays)) for stray in part]
    total = sum(weight * ratio for weight, ratio in known)
    return torch.tensor(max(total / sum(weight for weight, _ in known), 0.0))


def logps_of(
    policy: Tensor, data: PairSet, indexes: list[int], kl: Tensor
) -> AnswerLogps:
    """What the losses of these answers are made of; `policy`: their log-probs."""
    answers: Sequence[Any] = data.pairs
    return AnswerLogps(
        policy=policy,
        reference=data.reference.chosen[indexes].to(policy.device),
        desirable=torch.tensor(
            [answers[index].label for index in indexes],
            dtype=torch.bool,
            device=policy.device,
        ),
        kl=kl.to(policy.device),
    )


def _stray_ratios(run: Run, indexes: list[int]) -> list[tuple[float, float]]:
    parts = _split(run, indexes, STRAY)
    scores = run.engine.score_each([_rows(run, part, STRAY) for part in parts])
    logps = (scored.logps for scored in scores)
    return _weighted_ratios(run.data, zip(parts, logps, strict=True))


def _weighted_ratios(
    data: PairSet, scored: Iterable[tuple[list[int], Tensor]]
) -> list[tuple[float, float]]:
    """(weight, log-ratio) of strays, from (indexes, their log-probs)."""
    return [
        (data.pairs[index].weight, logp - data.reference.rejected[index].item())
        for part, logps in scored
        for index, logp in zip(part, logps.tolist(), strict=True)
    ]


def _rows(run: Run, indexes: list[int], which: int) -> list[Row]:
    return [pair_rows(run.data.pairs[index])[which] for index in indexes]


def _split(run: Run, indexes: list[int], which: int) -> list[list[int]]:
    """Indexes of the answers of each forward pass, one row of each."""
    parts = run.engine.split([[row] for row in _rows(run, indexes, which)])
    return [[indexes[place] for place in places] for places in parts]
