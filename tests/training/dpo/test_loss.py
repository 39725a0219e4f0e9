"""The losses, with numbers derived by hand.

Most use one pair at β = 0.5: log-ratios Δw = −1 − (−3) = 2 and Δl = −4 − (−2) = −2, so
βΔ = 2, βΔw = 1, βΔl = −1. Answers of 4 and 2 tokens. With log σ(2) = −0.126928,
log σ(−2) = −2.126928, log σ(1) = −0.313262, log σ(−1) = −1.313262, σ(1) = 0.731059,
σ(−1) = 0.268941, σ(2) = 0.880797, σ(−2) = 0.119203.
"""

import math

import pytest
import torch

from training.dpo.config import LOSS_NAMES
from training.dpo.loss import (
    ANSWER_LOSSES,
    PAIR_LOSSES,
    answer_losses,
    pair_losses,
)
from training.dpo.loss_inputs import AnswerLogps, LossSettings, PairLogps

HALF = LossSettings(beta=0.5)
PAIR = ([-1.0], [-4.0], [-3.0], [-2.0])


def doubles(values):
    return torch.tensor(values, dtype=torch.float64)


def logps(
    chosen, rejected, ref_chosen, ref_rejected, weights=None, lengths=None, shares=None
):
    """`lengths`: (chosen tokens, rejected tokens) of each pair; 4 and 2 by default."""
    chosen, rejected = doubles(chosen), doubles(rejected)
    chosen_tokens, rejected_tokens = doubles(lengths or [(4, 2)] * len(chosen)).T
    return PairLogps(
        chosen=chosen,
        rejected=rejected,
        ref_chosen=doubles(ref_chosen),
        ref_rejected=doubles(ref_rejected),
        chosen_mean=chosen / chosen_tokens,
        rejected_mean=rejected / rejected_tokens,
        chosen_tokens=chosen_tokens,
        rejected_tokens=rejected_tokens,
        chosen_share=doubles(shares or [1.0] * len(chosen)),
        weights=doubles(weights or [1.0] * len(chosen)),
    )


def loss_of(name, *rows, settings=HALF, **more):
    return PAIR_LOSSES[name](logps(*rows, **more), settings).tolist()


def test_every_name_config_knows_has_a_function():
    assert set(LOSS_NAMES) == set(PAIR_LOSSES) | set(ANSWER_LOSSES)


def test_a_policy_equal_to_its_reference_loses_ln_2():
    """Δ = 0, so −log σ(0) = ln 2, with any label smoothing."""
    equal = ([-3.0], [-5.0], [-3.0], [-5.0])
    for name in ("sigmoid", "sigmoid_norm", "aot", "aot_unpaired"):
        for smoothing in (0.0, 0.3):
            loss = loss_of(name, *equal, settings=LossSettings(0.1, smoothing))
            assert loss == pytest.approx([math.log(2)]), name


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("sigmoid", 0.126928),  # −log σ(2)
        ("hinge", 0.0),  # 1 − 2 is below 0
        ("ipo", 0.25),  # (2/4 − (−2)/2 − 1/(2·0.5))² = 0.5²
        ("sigmoid_norm", 0.386871),  # −log σ(0.5 · 1.5) = log(1 + e^−0.75)
        ("nca_pair", 1.126524),  # 0.313262 + 1.313262 / 2 + 0.313262 / 2
        ("bco_pair", 0.626523),  # twice 0.313262
        ("sppo_hard", 2.0),  # (2 − 1)² + (−2 + 1)²
        ("apo_zero", 0.537883),  # 1 − 0.731059 + 0.268941
        ("apo_down", 0.850262),  # 0.731059 + 1 − 0.880797
        ("aot", 0.126928),  # of one pair: the sigmoid loss
        ("aot_unpaired", 0.126928),
        ("sft", 0.25),  # 1/4 a token
    ],
)
def test_a_loss_follows_its_paper(name, wanted):
    assert loss_of(name, *PAIR) == pytest.approx([wanted], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "knobs", "wanted"),
    [
        # 0.9 · 0.126928 + 0.1 · 2.126928
        ("sigmoid", {"label_smoothing": 0.1}, 0.326928),
        ("aot", {"label_smoothing": 0.1}, 0.326928),
        # (0.9 · 0.126928 − 0.1 · 2.126928) / 0.8
        ("robust", {"label_smoothing": 0.1}, -0.123072),
        # 0.880797 (−0.126928 − ln 0.9) + 0.119203 (−2.126928 − ln 0.1)
        ("exo_pair", {"label_smoothing": 0.1}, 0.001942),
        # m = σ(2/2): 0.268941 · 0.126928 + 0.731059 · e^−2
        ("discopop", {"discopop_tau": 2.0}, 0.133074),
        # 2 (−1/4 + 4/2) − 0.5 = 3: log(1 + e^−3)
        ("simpo", {"beta": 2.0, "simpo_gamma": 0.5}, 0.048587),
        # odds e^−0.25/(1−e^−0.25) = 3.520812 and e^−2/(1−e^−2) = 0.156518, log of
        # their ratio 3.113278: 0.25 + 0.1 log(1 + e^−3.113278)
        ("orpo", {"beta": 0.1}, 0.254350),
    ],
)
def test_a_loss_reads_its_settings(name, knobs, wanted):
    settings = LossSettings(**({"beta": 0.5} | knobs))
    assert loss_of(name, *PAIR, settings=settings) == pytest.approx([wanted], abs=1e-6)


def test_a_wrong_order_costs_what_it_should():
    """Both sides swapped: βΔ = −2."""
    swapped = ([-4.0], [-1.0], [-2.0], [-3.0])
    assert loss_of("sigmoid", *swapped) == pytest.approx([2.126928], abs=1e-6)
    assert loss_of("hinge", *swapped) == [3.0]


def test_the_gradient_is_beta_times_the_chance_of_the_wrong_order():
    """d/dchosen −log σ(βΔ) = −β σ(−βΔ) = −0.5 · 0.119203."""
    pair = logps(*PAIR)
    pair.chosen.requires_grad_()
    PAIR_LOSSES["sigmoid"](pair, HALF).sum().backward()
    assert pair.chosen.grad.tolist() == pytest.approx([-0.059601], abs=1e-6)


def test_optimal_transport_compares_equal_ranks_of_the_step():
    """Policy a = −1, −5 and 3, reference b = 0, 1 and −1 on three pairs.

    Sorted: a −5, −1, 3 against b −1, 0, 1, so βδ = −2, −0.5 and 1. A pair's loss is
    that of its own a: −log σ(−0.5) = 0.974077, −log σ(−2), −log σ(1).
    """
    rows = (
        [-2.0, -6.0, -1.0],
        [-1.0, -1.0, -4.0],
        [-1.0, -1.0, -2.0],
        [-1.0, -2.0, -1.0],
    )
    wanted = pytest.approx([0.974077, 2.126928, 0.313262], abs=1e-6)
    assert loss_of("aot", *rows) == wanted


def test_optimal_transport_of_single_answers_sorts_both_sides():
    """Δw = 2 and 0, Δl = −2 and 2: sorted 0, 2 against −2, 2, so βδ = 1 and 0."""
    rows = ([-1.0, -3.0], [-4.0, -1.0], [-3.0, -3.0], [-2.0, -3.0])
    wanted = pytest.approx([math.log(2), 0.313262], abs=1e-6)
    assert loss_of("aot_unpaired", *rows) == wanted


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_in_optimal_transport_too_a_weight_of_3_is_the_pair_three_times(name):
    rows = (
        [-2.0, -6.5, -1.0],
        [-1.0, -1.0, -4.0],
        [-1.5, -1.0, -2.0],
        [-1.0, -2.0, -1.0],
    )
    thrice = [[row[0]] * 3 + row[1:] for row in rows]
    weighted = loss_of(name, *rows, weights=[3.0, 1.0, 1.0])
    mean = (3 * weighted[0] + weighted[1] + weighted[2]) / 5
    assert mean == pytest.approx(sum(loss_of(name, *thrice)) / 5)


def test_a_mix_adds_its_losses_by_weight():
    """RPO with α = 0.4: 0.126928 + 0.4 · 0.25."""
    loss = pair_losses({"sigmoid": 1.0, "sft": 0.4}, logps(*PAIR), HALF)
    assert loss.tolist() == pytest.approx([0.226928], abs=1e-6)


def test_supervised_loss_averages_over_tokens_not_answers():
    """Answers of 1 and 3 tokens at −2 and −1 a token: (2 + 3) / 4 over the step.

    Their mean length is 2, so the shares are 0.5 and 1.5.
    """
    rows = ([-2.0, -3.0], [-1.0, -1.0], [0.0, 0.0], [0.0, 0.0])
    loss = loss_of("sft", *rows, lengths=[(1, 1), (3, 1)], shares=[0.5, 1.5])
    assert sum(loss) / 2 == pytest.approx(1.25)


@pytest.mark.parametrize("name", sorted(PAIR_LOSSES))
@pytest.mark.parametrize("size", [1e-8, 1.0, 1e3, 1e5])
def test_no_loss_and_no_gradient_is_nan_however_far_the_policy_went(name, size):
    """Float32, both signs; exponential losses may reach infinity, others not."""
    for sign in (1, -1):
        rows = [[-size], [-size], [-size - sign * size], [-size + sign * size]]
        pair = logps(*rows)
        tensors = {k: v.float() for k, v in vars(pair).items()}
        for key in ("chosen", "rejected", "chosen_mean", "rejected_mean"):
            tensors[key].requires_grad_()
        settings = LossSettings(beta=0.1, label_smoothing=0.1)
        loss = PAIR_LOSSES[name](PairLogps(**tensors), settings)
        assert not loss.isnan().any()
        loss.sum().backward()
        for key in ("chosen", "rejected", "chosen_mean", "rejected_mean"):
            slope = tensors[key].grad
            assert slope is None or not slope.isnan().any(), key


def answers(policy, reference, desirable, kl):
    return AnswerLogps(
        doubles(policy), doubles(reference), torch.tensor(desirable), doubles(kl)
    )


def test_kto_measures_an_answer_against_the_drift_of_others():
    """β = 0.5, z₀ = 1: log-ratios 3 and −1, so 1 − σ(1) = 0.2689414 both ways; weights
    2 and 3."""
    both = answers([-1.0, -4.0], [-4.0, -3.0], [True, False], 1.0)
    settings = LossSettings(0.5, desirable_weight=2.0, undesirable_weight=3.0)
    loss = answer_losses({"kto": 1.0}, both, settings)
    assert loss.tolist() == pytest.approx([0.537883, 0.806824], abs=1e-6)


def test_unpaired_apo_zero_measures_an_answer_against_zero():
    """β = 0.5: log-ratios 2 and −2, so 1 − σ(1) and σ(−1)."""
    both = answers([-1.0, -5.0], [-3.0, -3.0], [True, False], 7.0)
    loss = answer_losses({"apo_zero_unpaired": 1.0}, both, HALF)
    assert loss.tolist() == pytest.approx([0.268941, 0.268941], abs=1e-6)
