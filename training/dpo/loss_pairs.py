"""Losses of preference pairs: a step's log-probs in, one loss per pair out, (B,).

Δw, Δl are the log-ratios of chosen and rejected to the reference, Δ = Δw − Δl. The
formulas are those of TRL 1.16 wherever it has them; where it differs from the paper,
the docstring says so. Leaves out answers without a partner; see `loss_unpaired.py`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training.dpo.loss_inputs import LossSettings, PairLogps


def _delta(logps: PairLogps) -> Tensor:
    return logps.chosen_logratios - logps.rejected_logratios


def _smoothed(logits: Tensor, smoothing: float) -> Tensor:
    """−(1−ε) log σ(x) − ε log σ(−x)."""
    if not smoothing:
        return -F.logsigmoid(logits)
    return -(1 - smoothing) * F.logsigmoid(logits) - smoothing * F.logsigmoid(-logits)


def sigmoid_loss(logps: PairLogps, settings: LossSettings) -> Tensor:
    """DPO, arXiv 2305.18290, eq. 7: −log σ(βΔ).

    With `label_smoothing` ε the conservative form (eq. 3 of
    https://ericmitchell.ai/cdpo.pdf): −(1−ε) log σ(βΔ) − ε log σ(−βΔ). TRL ignores ε.
    """
    return _smoothed(settings.beta * _delta(logps), settings.label_smoothing)


def hinge_loss(logps: PairLogps, settings: LossSettings) -> Tensor:
    """SLiC, arXiv 2305.10425, section 2, on log-ratios as in arXiv 2309.06657:
    max(0, 1 − βΔ)."""
    return torch.relu(1 - settings.beta * _delta(logps))


def _mean_logratios(logps: PairLogps) -> tuple[Tensor, Tensor]:
    """Log-ratios per answer token of (chosen, rejected)."""
    return (
        logps.chosen_logratios / logps.chosen_tokens,
        logps.rejected_logratios / logps.rejected_tokens,
    )


def ipo_loss(logps: PairLogps, settings: LossSettings) -> Tensor:
    """IPO, arXiv 2310.12036, eq. 17 with τ = β: (Δw/|y_w| − Δl/|y_l| − 1/(2β))².

    Log-ratios per token, as TRL has them after asking the authors; the paper's text
    writes sums.
    """
    chosen, rejected = _mean_logratios(logps)
    return (chosen - rejected - 1 / (2 * settings.beta)).square()


def sigmoid_norm_loss(logps: PairLogps, settings: LossSettings) -> Tensor:
    """Length-normalised DPO, arXiv 2411.15124, section 5:
    −log σ(β(Δw/|y_w| − Δl/|y_l|))."""
    chosen, rejected = _mean_logratios(logps)
    return -F.logsigmoid(settings.beta * (chosen - rejected))


def robust_loss(logps: PairLogps, settings: LossSettings) -> Tensor:
    """Robust DPO, arXiv 2403.00409, section 3.1, a share ε of pairs being flipped.

    [−(1−ε) log σ(βΔ) + ε log σ(−βΔ)] / (1 − 2ε): in expectation the loss of the true
    labels; may be negative.
    """
    logits, smoothing = settings.beta * _delta(logps), settings.label_smoothing
    clean, flipped = -F.logsigmoid(logits), -F.logsigmoid(-logits)
    return ((1 - smoothing) * clean - smoothing * flipped) / (1 - 2 * smoothing)


def exo_pair_loss(logps: PairLogps, settings: LossSettings) -> Tensor:
    """EXO, arXiv 2402.00856, eq. 16: KL from (σ(βΔ), σ(−βΔ)) to (1−ε, ε), ε > 0."""
    logits, smoothing = settings.beta * _delta(logps), settings.label_smoothing
    chosen, rejected = F.logsigmoid(logits), F.logsigmoid(-logits)
    return torch.sigmoid(logits) * (chosen - math.log1p(-smoothing)) + torch.sigmoid(
        -logits
    ) * (rejected - math.log(smoothing))


def nca_pair_loss(logps: PairLogps, settings: LossSettings) -> Tensor:
    """NCA, arXiv 2402.05369, section 4.1:
    −log σ(βΔw) − ½ log σ(−βΔw) − ½ log σ(−βΔl)."""
    chosen = settings.beta * logps.chosen_logratios
    rejected = settings.beta * logps.rejected_logratios
    both = F.logsigmoid(-chosen) + F.logsigmoid(-rejected)
    return -F.logsigmoid(chosen) - 0.5 * both


def bco_pair_loss(logps: PairLogps, settings: LossSettings) -> Tensor:
    """BCO, arXiv 2404.04656, section 4, without its running shift δ (as TRL's pair form):
    −log σ(βΔw) − log σ(−βΔl)."""
    chosen = settings.beta * logps.chosen_logratios
    rejected = settings.beta * logps.rejected_logratios
    return -F.logsigmoid(chosen) - F.logsigmoid(-rejected)


def sppo_hard_loss(logps: PairLogps, settings: LossSettings) -> Tensor:
    """SPPO, arXiv 2405.00675, eq. 4.7 with P = 1 for the chosen answer and β = 1/η:
    (Δw − 1/(2β))² + (Δl + 1/(2β))²."""
    target = 0.5 / settings.beta
    chosen = logps.chosen_logratios - target
    return chosen.square() + (logps.rejected_logratios + target).square()


def apo_zero_loss(logps: PairLogps, settings: LossSettings) -> Tensor:
    """APO-zero, arXiv 2408.06266, eq. 7: 1 − σ(βΔw) + σ(βΔl).

    For chosen answers better than the policy's own.
    """
    chosen = torch.sigmoid(-settings.beta * logps.chosen_logratios)
    return chosen + torch.sigmoid(settings.beta * logps.rejected_logratios)


def apo_down_loss(logps: PairLogps, settings: LossSettings) -> Tensor:
    """APO-down, arXiv 2408.06266, eq. 8: σ(βΔw) + 1 − σ(βΔ).

    For chosen answers worse than the policy's own: both sides go down, rejected more.
    """
    chosen = torch.sigmoid(settings.beta * logps.chosen_logratios)
    return chosen + torch.sigmoid(-settings.beta * _delta(logps))


def discopop_loss(logps: PairLogps, settings: LossSettings) -> Tensor:
    """DiscoPOP, arXiv 2406.08414, eq. 5: −(1−m) log σ(x) + m e^{−x}, x = βΔ.

    m = σ(x/τ). m e^{−x} is taken as one exponential: apart they overflow.
    """
    logits = settings.beta * _delta(logps)
    scaled = logits / settings.discopop_tau
    logistic = -torch.sigmoid(-scaled) * F.logsigmoid(logits)
    return logistic + torch.exp(F.logsigmoid(scaled) - logits)


def aot_loss(logps: PairLogps, settings: LossSettings) -> Tensor:
    """AOT for pairs, arXiv 2406.05882, section 3: −log σ(β(a_(k) − b_(k))).

    a = log π(y_w|x) − log π(y_l|x), b likewise under the reference, each sorted over
    the whole step; `label_smoothing` as in cDPO. A pair's loss is that of its own a.
    """
    policy = logps.chosen - logps.rejected
    reference = logps.ref_chosen - logps.ref_rejected
    return _transported(policy, reference, logps.weights, settings)


def aot_unpaired_loss(logps: PairLogps, settings: LossSettings) -> Tensor:
    """AOT, unpaired form, arXiv 2406.05882, section 3: −log σ(β(Δw_(k) − Δl_(k))).

    Chosen and rejected log-ratios are each sorted over the whole step;
    `label_smoothing` as in cDPO. A pair's loss is that of its chosen answer.
    """
    chosen, rejected = logps.chosen_logratios, logps.rejected_logratios
    return _transported(chosen, rejected, logps.weights, settings)


def _transported(
    upper: Tensor, lower: Tensor, weights: Tensor, settings: LossSettings
) -> Tensor:
    """Cost of moving `lower` to `upper` in the order of their values: (B,).

    ∫ −log σ(β(Q_upper(t) − Q_lower(t))) dt over the quantile functions of the two
    weighted samples, told apart by the row of `upper`: Σ w · loss / Σ w is the whole.
    With equal weights this is sort(upper) − sort(lower); a weight of 3 is a row three
    times.
    """
    device = upper.device
    # A handful of numbers, and index_add is not deterministic on GPUs.
    upper, lower, weights = upper.cpu(), lower.cpu(), weights.cpu()
    up, down = upper.detach().argsort(), lower.detach().argsort()
    exact = weights.double()
    up_ends, down_ends = exact[up].cumsum(0), exact[down].cumsum(0)
    ends = torch.cat([up_ends, down_ends]).sort().values
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    middles, last = (starts + ends) / 2, len(up) - 1
    row = up[torch.searchsorted(up_ends, middles).clamp(max=last)]
    partner = down[torch.searchsorted(down_ends, middles).clamp(max=last)]
    logits = settings.beta * (upper[row] - lower[partner])
    share = ((ends - starts) / exact[row]).to(upper.dtype)
    losses = share * _smoothed(logits, settings.label_smoothing)
    return torch.zeros_like(upper).index_add(0, row, losses).to(device)


def sft_loss(logps: PairLogps, settings: LossSettings) -> Tensor:
    """Cross-entropy of the chosen answers: −log π(y_w|x) per token.

    Its mean over the step is a mean over all chosen tokens of the step, as TRL's is
    over a batch. {"sigmoid": 1, "sft": α} is RPO, arXiv 2404.19733, section 2 (which
    averages each answer by itself).
    """
    return -logps.chosen_mean * logps.chosen_share


def simpo_loss(logps: PairLogps, settings: LossSettings) -> Tensor:
    """SimPO, arXiv 2405.14734, eq. 6, without a reference:
    −log σ(β(mean log π(y_w|x) − mean log π(y_l|x)) − γ); smoothed as in cDPO."""
    logits = settings.beta * (logps.chosen_mean - logps.rejected_mean)
    return _smoothed(logits - settings.simpo_gamma, settings.label_smoothing)


def log_odds_ratio(logps: PairLogps) -> Tensor:
    """ORPO's log odds(y_w|x) / odds(y_l|x), arXiv 2403.07691, section 4: (B,).

    odds = P/(1−P) for P the geometric mean of an answer's token probabilities.
    """
    chosen, rejected = logps.chosen_mean, logps.rejected_mean
    return (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))


def _log1mexp(values: Tensor) -> Tensor:
    """log(1 − e^x) for x < 0, without cancellation; x is taken as −1e-6 at most."""
    values = values.clamp(max=-1e-6)
    near = values > -math.log(2)
    # Each branch gets only what it can bear, or its gradient would be NaN.
    small = torch.where(near, values, -1.0)
    large = torch.where(near, -1.0, values)
    return torch.where(near, (-torch.expm1(small)).log(), torch.log1p(-large.exp()))


def orpo_loss(logps: PairLogps, settings: LossSettings) -> Tensor:
    """ORPO, arXiv 2403.07691, eq. 6 and 7, with λ = β, without a reference.

    nll(y_w|x) − β log σ(log odds ratio). The first term is `sft_loss`, over answer
    tokens as in the paper; TRL takes it over the prompt's tokens as well.
    """
    odds = F.logsigmoid(log_odds_ratio(logps))
    return sft_loss(logps, settings) - settings.beta * odds
