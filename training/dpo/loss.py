"""The table of losses, and a run's objective: names with weights, and settings.

A further loss is one more function here and one more line in `loss_facts.py`. Leaves
out the formulas (`loss_pairs.py`, `loss_unpaired.py`) and how log-probs are obtained.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from training.dpo import loss_pairs, loss_unpaired
from training.dpo.config import TrainingConfig, loss_weights
from training.dpo.loss_facts import facts_of, is_unpaired, reads_reference
from training.dpo.loss_inputs import AnswerLogps, LossSettings, PairLogps

PairLoss = Callable[[PairLogps, LossSettings], Tensor]
AnswerLoss = Callable[[AnswerLogps, LossSettings], Tensor]

PAIR_LOSSES: dict[str, PairLoss] = {
    "sigmoid": loss_pairs.sigmoid_loss,
    "hinge": loss_pairs.hinge_loss,
    "ipo": loss_pairs.ipo_loss,
    "robust": loss_pairs.robust_loss,
    "exo_pair": loss_pairs.exo_pair_loss,
    "nca_pair": loss_pairs.nca_pair_loss,
    "bco_pair": loss_pairs.bco_pair_loss,
    "sppo_hard": loss_pairs.sppo_hard_loss,
    "apo_zero": loss_pairs.apo_zero_loss,
    "apo_down": loss_pairs.apo_down_loss,
    "sigmoid_norm": loss_pairs.sigmoid_norm_loss,
    "discopop": loss_pairs.discopop_loss,
    "aot": loss_pairs.aot_loss,
    "aot_unpaired": loss_pairs.aot_unpaired_loss,
    "sft": loss_pairs.sft_loss,
    "simpo": loss_pairs.simpo_loss,
    "orpo": loss_pairs.orpo_loss,
}

ANSWER_LOSSES: dict[str, AnswerLoss] = {
    "kto": loss_unpaired.kto_loss,
    "apo_zero_unpaired": loss_unpaired.apo_zero_unpaired_loss,
}


@dataclass(frozen=True)
class Objective:
    """The loss of a run: names with weights, their settings, how answers are summed.

    `ld_alpha`: weight of tokens beyond the shorter answer, None: all count. `has_reference`:
    whether rewards are log-ratios to a reference.
    """

    weights: dict[str, float]
    settings: LossSettings
    ld_alpha: float | None = None
    has_reference: bool = True

    @property
    def coupled(self) -> bool:
        """Whether a pair's loss depends on the step's other pairs."""
        return any(facts.coupled for facts in facts_of(self.weights))

    @property
    def unpaired(self) -> bool:
        """Whether it trains on single answers with a label."""
        return is_unpaired(self.weights)


def objective_of(config: TrainingConfig) -> Objective:
    """What config.json asks for."""
    weights = loss_weights(config)
    settings = LossSettings(
        beta=config.beta,
        label_smoothing=config.label_smoothing,
        simpo_gamma=config.simpo_gamma,
        discopop_tau=config.discopop_tau,
        desirable_weight=config.desirable_weight,
        undesirable_weight=config.undesirable_weight,
    )
    has_reference = reads_reference(weights, config.reference)
    return Objective(weights, settings, config.ld_alpha, has_reference)


def pair_rewards(logps: PairLogps, objective: Objective) -> tuple[Tensor, Tensor]:
    """Implicit rewards of (chosen, rejected), each (B,), without gradient.

    β · log-ratio to the reference, whatever the loss; without a reference β · mean
    log-prob per token, as TRL has them for SimPO and ORPO.
    """
    if objective.has_reference:
        chosen, rejected = logps.chosen_logratios, logps.rejected_logratios
    else:
        chosen, rejected = logps.chosen_mean, logps.rejected_mean
    beta = objective.settings.beta
    return beta * chosen.detach(), beta * rejected.detach()


def pair_logps_shown(logps: PairLogps, objective: Objective) -> tuple[Tensor, Tensor]:
    """What `logps/chosen` and `logps/rejected` are means of: (B,), (B,).

    TRL logs means per token where the loss is made of them (SimPO, ORPO), else sums.
    """
    if {"simpo", "orpo"} & set(objective.weights):
        return logps.chosen_mean.detach(), logps.rejected_mean.detach()
    return logps.chosen.detach(), logps.rejected.detach()


def loss_terms(logps: PairLogps, objective: Objective) -> dict[str, Tensor]:
    """Parts of the loss that TRL logs by themselves: {name: (B,)}; ORPO's only."""
    if "orpo" not in objective.weights:
        return {}
    odds = loss_pairs.log_odds_ratio(logps).detach()
    return {
        "nll_loss": loss_pairs.sft_loss(logps, objective.settings).detach(),
        "log_odds_ratio": F.logsigmoid(odds),
        "log_odds_chosen": odds,
    }


def pair_losses(
    weights: Mapping[str, float], logps: PairLogps, settings: LossSettings
) -> Tensor:
    """Σ weight · loss over the named losses: (B,)."""
    parts = [
        weight * PAIR_LOSSES[name](logps, settings) for name, weight in weights.items()
    ]
    return sum(parts[1:], parts[0])


def answer_losses(
    weights: Mapping[str, float], logps: AnswerLogps, settings: LossSettings
) -> Tensor:
    """Σ weight · loss over the named losses: (N,)."""
    parts = [
        weight * ANSWER_LOSSES[name](logps, settings)
        for name, weight in weights.items()
    ]
    return sum(parts[1:], parts[0])
