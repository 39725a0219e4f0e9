"""A step's figures under TRL's names and definitions (reference: TRL 1.16's DPOTrainer;
for SimPO and ORPO its CPOTrainer and ORPOTrainer).

Means over a step's pairs; `logits/…`, `entropy` and `mean_token_accuracy` are means over
its answer tokens, as TRL's are within a batch. Only `loss` is weighted by the pairs'
weights. Added to TRL's: `rewards/accuracies_ties_half`, which counts a tie as one half
(TRL's `rewards/accuracies` counts it as a miss); `drift/chosen`, `drift/rejected`, the
mean over pairs of the mean per-token log-ratio to the base model (an estimate made on
given answers, not a KL divergence).
"""

import math
from typing import Any

from torch import Tensor

from training.dpo.forward import RowScores
from training.dpo.loss import Objective, loss_terms, pair_logps_shown, pair_rewards
from training.dpo.loss_inputs import PairLogps
from training.dpo.reference import PairSet

TIE = 1e-6
"""Rewards that differ by less, relative to the log-probs they come from, are equal: such
log-probs agree no better between two orders of summing."""


class Figures:
    """Collects pairs and turns them into one object of metrics."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.indexes: list[int] = []
        self.weights: list[float] = []
        self.losses: list[float] = []
        self.chosen_rewards: list[float] = []
        self.rejected_rewards: list[float] = []
        self.chosen_wins: list[bool] = []
        self.margins: list[float] = []
        self.chosen_logps: list[float] = []
        self.rejected_logps: list[float] = []
        self.chosen_drift: list[float] = []
        self.rejected_drift: list[float] = []
        self.tokens = {"chosen": 0, "rejected": 0}
        self.logits = {"chosen": 0.0, "rejected": 0.0}
        self.entropy = 0.0
        self.hits = 0
        self.terms: dict[str, list[float]] = {}

    def add(
        self,
        data: PairSet,
        indexes: list[int],
        scores: RowScores,
        logps: PairLogps,
    ) -> None:
        """Add the pairs of one forward pass (chosen rows first, then rejected)."""
        chosen_rewards, rejected_rewards = pair_rewards(logps, self.objective)
        self.indexes += indexes
        self.weights += [data.pairs[index].weight for index in indexes]
        self.chosen_rewards += chosen_rewards.tolist()
        self.rejected_rewards += rejected_rewards.tolist()
        self.chosen_wins += (chosen_rewards > rejected_rewards).tolist()
        self.margins += (chosen_rewards - rejected_rewards).tolist()
        shown = pair_logps_shown(logps, self.objective)
        self.chosen_logps += shown[0].tolist()
        self.rejected_logps += shown[1].tolist()
        for name, value in loss_terms(logps, self.objective).items():
            self.terms.setdefault(name, []).extend(value.tolist())
        count = len(indexes)
        sums = scores.logps.detach().tolist()
        chosen_lengths, rejected_lengths = (
            scores.lengths[:count],
            scores.lengths[count:],
        )
        base_chosen = data.base.chosen[indexes].tolist()
        base_rejected = data.base.rejected[indexes].tolist()
        self.chosen_drift += _per_token(sums[:count], base_chosen, chosen_lengths)
        self.rejected_drift += _per_token(sums[count:], base_rejected, rejected_lengths)
        split = sum(chosen_lengths)
        self.tokens["chosen"] += split
        self.tokens["rejected"] += sum(rejected_lengths)
        self.logits["chosen"] += float(scores.mean_logit[:split].double().sum())
        self.logits["rejected"] += float(scores.mean_logit[split:].double().sum())
        self.entropy += float(scores.entropy.double().sum())
        self.hits += int(scores.is_top1[:split].sum())

    def add_losses(self, losses: Tensor) -> None:
        """Add the losses of the pairs added since, in their order."""
        self.losses += losses.detach().tolist()

    @property
    def right(self) -> list[float]:
        """Per pair 1 if the chosen answer has the higher reward, 0.5 at a tie, else 0."""
        scale = TIE * self.objective.settings.beta
        return [
            0.5
            if abs(margin) <= scale * (abs(chosen) + abs(rejected))
            # NaN is no tie, and nothing is right about it.
            else float(margin > 0)
            for margin, chosen, rejected in zip(
                self.margins, self.chosen_logps, self.rejected_logps, strict=True
            )
        ]

    @property
    def pair_losses(self) -> list[float]:
        """Each pair's loss."""
        return self.losses

    @property
    def pair_drifts(self) -> list[float]:
        """Log-ratios to the base per token, of both answers of each pair."""
        return self.chosen_drift + self.rejected_drift

    @property
    def loss(self) -> float:
        """Σ weight · loss / Σ weight over the pairs."""
        weighted = (w * x for w, x in zip(self.weights, self.losses, strict=True))
        return sum(weighted) / sum(self.weights)

    def metrics(self, prefix: str = "") -> dict[str, Any]:
        """{TRL's name: value}; what is not a finite number becomes None."""
        tokens = self.tokens
        values = {
            "loss": self.loss,
            "rewards/chosen": _mean(self.chosen_rewards),
            "rewards/rejected": _mean(self.rejected_rewards),
            "rewards/margins": _mean(self.margins),
            # Strict, as in TRL: a tie counts as a miss.
            "rewards/accuracies": _mean(self.chosen_wins),
            "rewards/accuracies_ties_half": _mean(self.right),
            "logps/chosen": _mean(self.chosen_logps),
            "logps/rejected": _mean(self.rejected_logps),
            "logits/chosen": self.logits["chosen"] / tokens["chosen"],
            "logits/rejected": self.logits["rejected"] / tokens["rejected"],
            "entropy": self.entropy / (tokens["chosen"] + tokens["rejected"]),
            "mean_token_accuracy": self.hits / tokens["chosen"],
            "drift/chosen": _mean(self.chosen_drift),
            "drift/rejected": _mean(self.rejected_drift),
            **{name: _mean(terms) for name, terms in self.terms.items()},
        }
        return {prefix + k: v if math.isfinite(v) else None for k, v in values.items()}


def _mean(values: list[Any]) -> float:
    return sum(values) / len(values)


def _per_token(
    policy: list[float], base: list[float], lengths: list[int]
) -> list[float]:
    return [(p - b) / n for p, b, n in zip(policy, base, lengths, strict=True)]
