"""The losses, with numbers derived by hand."""

import math

import pytest
import torch

from training.dpo.loss import LossSettings, PairLogps, pair_losses, sigmoid_loss


def logps(chosen, rejected, ref_chosen, ref_rejected):
    rows = (chosen, rejected, ref_chosen, ref_rejected)
    return PairLogps(*(torch.tensor(row, dtype=torch.float64) for row in rows))


def test_a_policy_equal_to_its_reference_loses_ln_2():
    """Δ = 0, so −log σ(0) = ln 2, with any label smoothing."""
    equal = logps([-3.0], [-5.0], [-3.0], [-5.0])
    for smoothing in (0.0, 0.3):
        loss = sigmoid_loss(equal, LossSettings(0.1, smoothing))
        assert loss.tolist() == pytest.approx([math.log(2)])


def test_sigmoid_loss_follows_the_paper():
    """Two pairs at β = 0.5.

    First: chosen ratio −1 − (−3) = 2, rejected −4 − (−2) = −2, Δ = 4, βΔ = 2, loss
    −log σ(2) = log(1 + e⁻²) = 0.126928. Second, both sides swapped: Δ = −4, loss
    log(1 + e²) = 2.126928.
    """
    loss = sigmoid_loss(
        logps([-1.0, -4.0], [-4.0, -1.0], [-3.0, -2.0], [-2.0, -3.0]), LossSettings(0.5)
    )
    assert loss.tolist() == pytest.approx([0.126928, 2.126928], abs=1e-6)


def test_label_smoothing_mixes_in_the_flipped_pair():
    """ε = 0.1, βΔ = 2: 0.9 · 0.126928 + 0.1 · 2.126928 = 0.326928."""
    pair = logps([-1.0], [-4.0], [-3.0], [-2.0])
    loss = sigmoid_loss(pair, LossSettings(0.5, 0.1))
    assert loss.tolist() == pytest.approx([0.326928], abs=1e-6)


def test_the_gradient_is_beta_times_the_chance_of_the_wrong_order():
    """d/dchosen −log σ(βΔ) = −β σ(−βΔ); β = 0.5, βΔ = 2: −0.5 · 0.119203 = −0.059601."""
    chosen = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    fixed = logps([0.0], [-4.0], [-3.0], [-2.0])
    pair = PairLogps(chosen, fixed.rejected, fixed.ref_chosen, fixed.ref_rejected)
    sigmoid_loss(pair, LossSettings(0.5)).sum().backward()
    assert chosen.grad.tolist() == pytest.approx([-0.059601], abs=1e-6)


def test_a_weight_scales_a_loss():
    """0.25 · ln 2 at the start."""
    equal = logps([-3.0], [-5.0], [-3.0], [-5.0])
    loss = pair_losses({"sigmoid": 0.25}, equal, LossSettings())
    assert loss.tolist() == pytest.approx([0.25 * math.log(2)])
