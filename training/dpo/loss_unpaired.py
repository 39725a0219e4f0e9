"""Losses of single answers labelled desirable or not: one loss per answer, (N,).

Leaves out pairs; see `loss_pairs.py`.
"""

import torch
from torch import Tensor

from training.dpo.loss_inputs import AnswerLogps, LossSettings


def _weighed(losses: Tensor, logps: AnswerLogps, settings: LossSettings) -> Tensor:
    by_label = torch.where(
        logps.desirable, settings.desirable_weight, settings.undesirable_weight
    )
    return by_label * losses


def kto_loss(logps: AnswerLogps, settings: LossSettings) -> Tensor:
    """KTO, arXiv 2402.01306, eq. 7 and 8, with z₀ = `kl` and r the log-ratio.

    λ_D (1 − σ(β(r − z₀))) for a desirable answer, λ_U (1 − σ(β(z₀ − r))) else.
    """
    above = settings.beta * (logps.logratios - logps.kl)
    return _weighed(
        torch.sigmoid(torch.where(logps.desirable, -above, above)), logps, settings
    )


def apo_zero_unpaired_loss(logps: AnswerLogps, settings: LossSettings) -> Tensor:
    """APO-zero, arXiv 2408.06266, eq. 7, each answer by itself: KTO with z₀ = 0."""
    rewards = settings.beta * logps.logratios
    return _weighed(
        torch.sigmoid(torch.where(logps.desirable, -rewards, rewards)), logps, settings
    )
