"""The figures of labelled answers under TRL's names (reference: TRL 1.16's KTOTrainer).

`…/chosen` are means over the desirable answers, `…/rejected` over the others, None where
there are none; `rewards/margins` is the difference of the two means, `kl` the estimate
z₀. Ours: an answer's margin is how far its reward is on its label's side of β·z₀, and
`rewards/accuracies` the share of answers on that side; `mean_token_accuracy` over the
desirable answers and `drift/…` as for pairs.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from training.dpo.data import Answer
from training.dpo.forward import RowScores
from training.dpo.loss import Objective
from training.dpo.loss_inputs import AnswerLogps
from training.dpo.metrics import TIE

SIDES = ("chosen", "rejected")


class AnswerFigures:
    """Collects answers and turns them into one object of metrics."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.indexes: list[int] = []
        self.weights: list[float] = []
        self.labels: list[bool] = []
        self.losses: list[float] = []
        self.rewards: list[float] = []
        self.margins: list[float] = []
        self.logps: list[float] = []
        self.drift: list[float] = []
        self.tokens = dict.fromkeys(SIDES, 0)
        self.logits = dict.fromkeys(SIDES, 0.0)
        self.entropy = 0.0
        self.hits = 0
        self.kl = torch.zeros(())

    def add(
        self,
        answers: Sequence[Answer],
        indexes: Sequence[int],
        scores: RowScores,
        base: Sequence[float],
        losses: Tensor,
        logps: AnswerLogps,
    ) -> None:
        """Add the answers at `indexes`, whose rows come first in `scores`.

        `base`: their summed log-probs under the base.
        """
        members = [answers[index] for index in indexes]
        settings = self.objective.settings
        self.indexes += indexes
        self.weights += [member.weight for member in members]
        self.labels += [member.label for member in members]
        self.losses += losses.detach().tolist()
        self.rewards += (settings.beta * logps.logratios.detach()).tolist()
        above = settings.beta * (logps.logratios.detach() - logps.kl)
        self.margins += torch.where(logps.desirable, above, -above).tolist()
        sums = logps.policy.detach().tolist()
        self.logps += sums
        lengths = scores.lengths[: len(members)]
        self.drift += [(p - b) / n for p, b, n in zip(sums, base, lengths, strict=True)]
        start = 0
        for member, length in zip(members, lengths, strict=True):
            side, own = SIDES[not member.label], slice(start, start + length)
            self.tokens[side] += length
            self.logits[side] += float(scores.mean_logit[own].double().sum())
            self.hits += int(scores.is_top1[own].sum()) if member.label else 0
            start += length
        self.entropy += float(scores.entropy[:start].double().sum())

    @property
    def right(self) -> list[float]:
        """Per answer 1 if its reward is on its label's side, 0.5 at the border, else 0."""
        scale = TIE * self.objective.settings.beta
        return [
            0.5 if abs(margin) <= scale * abs(logp) else float(margin > 0)
            for margin, logp in zip(self.margins, self.logps, strict=True)
        ]

    @property
    def pair_losses(self) -> list[float]:
        """One for each of `indexes`."""
        return self.losses

    @property
    def pair_drifts(self) -> list[float]:
        """Mean log-ratios to the base per token, of every answer."""
        return self.drift

    @property
    def loss(self) -> float:
        """Σ weight · loss / Σ weight over the answers."""
        weighted = (w * x for w, x in zip(self.weights, self.losses, strict=True))
        return sum(weighted) / sum(self.weights)

    def metrics(self, prefix: str = "") -> dict[str, Any]:
        """{TRL's name: value}; what is not a finite number becomes None."""
        values = {"loss": self.loss}
        for side, label in zip(SIDES, (True, False), strict=True):
            values[f"rewards/{side}"] = self._mean(self.rewards, label)
            values[f"logps/{side}"] = self._mean(self.logps, label)
            values[f"logits/{side}"] = _share(self.logits[side], self.tokens[side])
            values[f"drift/{side}"] = self._mean(self.drift, label)
        values["rewards/margins"] = (
            values["rewards/chosen"] - values["rewards/rejected"]
        )
        wins = [margin > 0 for margin in self.margins]
        values["rewards/accuracies"] = sum(wins) / len(wins)
        values["rewards/accuracies_ties_half"] = sum(self.right) / len(wins)
        values["entropy"] = self.entropy / sum(self.tokens.values())
        values["mean_token_accuracy"] = _share(self.hits, self.tokens["chosen"])
        values["kl"] = float(self.kl)
        return {prefix + k: v if math.isfinite(v) else None for k, v in values.items()}

    def _mean(self, values: Sequence[float], label: bool) -> float:
        asked = [v for v, own in zip(values, self.labels, strict=True) if own == label]
        return _share(sum(asked), len(asked))


def _share(total: float, count: int) -> float:
    return total / count if count else math.nan
