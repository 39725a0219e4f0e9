"""What losses are made of: log-probs of a step's answers, and settings.

Leaves out where they come from; see `evaluate.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from training.dpo.distributed import gathered, rank, world_size


@dataclass(frozen=True)
class LossSettings:
    """Knobs of the losses, named as in config.json."""

    beta: float = 0.1
    label_smoothing: float = 0.0
    simpo_gamma: float = 0.5
    discopop_tau: float = 0.05
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0


@dataclass(frozen=True)
class PairLogps:
    """Log-probs of B pairs; every tensor is (B,).

    `chosen`, `rejected`: log π(y|x) summed over the answer's tokens, those beyond the
    shorter answer's length weighed by `ld_alpha` if that is set (LD-DPO, arXiv
    2409.06411); `ref_…` likewise under the reference, 0 where there is none. `…_mean`: mean
    log-prob of an answer's tokens, never weighed. `…_tokens`: answer tokens.
    `chosen_share`: the chosen answer's tokens over their mean in the step (weighted by
    `weights`), so that −chosen_mean · chosen_share averages to the mean over tokens.
    `weights`: the pairs' shares of the step's weight, which float32 holds whatever the
    weights' own size.
    """

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_mean: Tensor
    rejected_mean: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    chosen_share: Tensor
    weights: Tensor

    @property
    def chosen_logratios(self) -> Tensor:
        """log π(y_w|x) − log π_ref(y_w|x)."""
        return self.chosen - self.ref_chosen

    @property
    def rejected_logratios(self) -> Tensor:
        """log π(y_l|x) − log π_ref(y_l|x)."""
        return self.rejected - self.ref_rejected


def joined(parts: Sequence[PairLogps]) -> PairLogps:
    """The pairs of several forward passes, in their order."""
    names = [field.name for field in fields(PairLogps)]
    return PairLogps(
        **{name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    )


def everyones(parts: Sequence[PairLogps]) -> tuple[PairLogps, slice]:
    """The pairs of all processes' forward passes, and which of them are `parts`.

    Of several processes the log-probs lie on the CPU and carry no gradient.
    """
    if world_size() == 1:
        known = joined(parts)
        return known, slice(0, len(known.weights))
    by_rank = gathered([_on_cpu(part) for part in parts])
    counts = [sum(len(part.weights) for part in each) for each in by_rank]
    first = sum(counts[: rank()])
    known = joined([part for each in by_rank for part in each])
    return known, slice(first, first + counts[rank()])


def _on_cpu(part: PairLogps) -> PairLogps:
    values = {f.name: getattr(part, f.name) for f in fields(PairLogps)}
    return PairLogps(**{name: value.detach().cpu() for name, value in values.items()})


@dataclass(frozen=True)
class AnswerLogps:
    """Log-probs of N single answers: `policy` and `reference` (N,), summed over tokens.

    `desirable` (N,) bool is the answers' label. `kl` () is an estimate of KL(π, π_ref),
    at least 0 and without gradient: the mean log-ratio of answers to other prompts.
    """

    policy: Tensor
    reference: Tensor
    desirable: Tensor
    kl: Tensor

    @property
    def logratios(self) -> Tensor:
        """log π(y|x) − log π_ref(y|x)."""
        return self.policy - self.reference
