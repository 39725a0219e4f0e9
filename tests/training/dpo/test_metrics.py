"""A step's figures, derived by hand."""

import pytest
import torch

from training.dpo.data import Pair
from training.dpo.forward import RowScores
from training.dpo.loss import Objective
from training.dpo.loss_inputs import LossSettings, PairLogps
from training.dpo.metrics import Figures
from training.dpo.reference import FixedLogps, PairSet


def test_figures_of_two_pairs():
    """β = 0.5; answers of 2 and 1 (chosen), 1 and 2 tokens (rejected).

    Log-ratios: chosen 2 and −1, rejected −2 and −1, so rewards 1, −0.5 and −1, −0.5:
    means 0.25 and −0.75, margins 2 and 0 (mean 1), accuracies 1 and 0: the tie counts
    as a miss, or as one half. The base is 1 below the reference on every answer: drift per token
    chosen (2+1)/2 and (−1+1)/1, mean 0.75; rejected (−2+1)/1 and (−1+1)/2, mean −0.5.
    Loss with weights 3 and 1: (3 · 0.2 + 1 · 0.6) / 4 = 0.3.
    Token means: entropy (1+2+3 + 4+5+6)/6 = 3.5; logits chosen (1+2+3)/3 = 2, rejected
    (4+5+6)/3 = 5; top-1 on chosen tokens 2 of 3.
    """
    pairs = [Pair("a", 1, [1], [2, 3], [4], 3.0), Pair("b", 2, [1], [2], [4, 5], 1.0)]
    reference = FixedLogps(torch.tensor([-5.0, -2.0]), torch.tensor([-3.0, -4.0]))
    base = FixedLogps(reference.chosen - 1, reference.rejected - 1)
    figures = Figures(Objective({"sigmoid": 1.0}, LossSettings(beta=0.5)))
    token_values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    scores = RowScores(
        token_logps=torch.tensor([-1.0, -2.0, -3.0, -5.0, -2.0, -3.0]),
        lengths=[2, 1, 1, 2],
        entropy=token_values,
        mean_logit=token_values,
        is_top1=torch.tensor([True, False, True, True, True, True]),
    )
    logps = PairLogps(
        chosen=torch.tensor([-3.0, -3.0]),
        rejected=torch.tensor([-5.0, -5.0]),
        ref_chosen=reference.chosen,
        ref_rejected=reference.rejected,
        chosen_mean=torch.tensor([-1.5, -3.0]),
        rejected_mean=torch.tensor([-5.0, -2.5]),
        chosen_tokens=torch.tensor([2.0, 1.0]),
        rejected_tokens=torch.tensor([1.0, 2.0]),
        chosen_share=torch.tensor([8 / 7, 4 / 7]),
        weights=torch.tensor([3.0, 1.0]),
    )
    figures.add(PairSet(pairs, reference, base), [0, 1], scores, logps)
    figures.add_losses(torch.tensor([0.2, 0.6]))
    assert figures.metrics("eval_") == pytest.approx(
        {
            "eval_loss": 0.3,
            "eval_rewards/chosen": 0.25,
            "eval_rewards/rejected": -0.75,
            "eval_rewards/margins": 1.0,
            "eval_rewards/accuracies": 0.5,
            "eval_rewards/accuracies_ties_half": 0.75,
            "eval_logps/chosen": -3.0,
            "eval_logps/rejected": -5.0,
            "eval_logits/chosen": 2.0,
            "eval_logits/rejected": 5.0,
            "eval_entropy": 3.5,
            "eval_mean_token_accuracy": 2 / 3,
            "eval_drift/chosen": 0.75,
            "eval_drift/rejected": -0.5,
        }
    )
