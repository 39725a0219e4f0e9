"""Preference losses: tensors of summed log-probs in, one loss per pair out.

Only the log-probs enter; which model gave them, how pairs are weighted and how a step
is averaged is settled elsewhere. A further loss is one more function in `LOSSES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LossSettings:
    """Knobs of the losses, named as in config.json."""

    beta: float = 0.1
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class Objective:
    """The loss of a run: names with weights, and their settings."""

    weights: dict[str, float]
    settings: LossSettings


@dataclass(frozen=True)
class PairLogps:
    """Log-probs of B pairs, each (B,), summed over the answer's tokens."""

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor

    @property
    def chosen_logratios(self) -> Tensor:
        """log π(y_w|x) − log π_ref(y_w|x)."""
        return self.chosen - self.ref_chosen

    @property
    def rejected_logratios(self) -> Tensor:
        """log π(y_l|x) − log π_ref(y_l|x)."""
        return self.rejected - self.ref_rejected


PairLoss = Callable[[PairLogps, LossSettings], Tensor]


def sigmoid_loss(logps: PairLogps, settings: LossSettings) -> Tensor:
    """DPO, eq. 7 of https://arxiv.org/abs/2305.18290: −log σ(βΔ), per pair (B,).

    Δ is the chosen log-ratio minus the rejected one. With `label_smoothing` ε the
    conservative form (eq. 3 of https://ericmitchell.ai/cdpo.pdf):
    −(1−ε) log σ(βΔ) − ε log σ(−βΔ).
    """
    logits = settings.beta * (logps.chosen_logratios - logps.rejected_logratios)
    smoothing = settings.label_smoothing
    if not smoothing:
        return -F.logsigmoid(logits)
    return -(1 - smoothing) * F.logsigmoid(logits) - smoothing * F.logsigmoid(-logits)


LOSSES: dict[str, PairLoss] = {"sigmoid": sigmoid_loss}


def pair_losses(
    weights: Mapping[str, float], logps: PairLogps, settings: LossSettings
) -> Tensor:
    """Σ weight · loss over the named losses: (B,)."""
    parts = [weight * LOSSES[name](logps, settings) for name, weight in weights.items()]
    return sum(parts[1:], parts[0])
