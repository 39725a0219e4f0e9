"""The gradient of a step: what weights mean, and that its split changes nothing."""

import pytest
import torch

from tests.training.dpo.runs import PAIRS
from training.dpo.adapter import set_dropout
from training.dpo.config import load_config
from training.dpo.loss_facts import LOSS_FACTS
from training.dpo.prepare import prepare
from training.dpo.process import StopFlag
from training.dpo.status import StatusFile
from training.dpo.step import backward_step

PAIR_NAMES = [name for name, facts in LOSS_FACTS.items() if not facts.unpaired]
SMOOTHED = {"exo_pair", "aot"}


def stepped(folder):
    """(loss, gradients) of one step over all rows, the adapter shaken off zero."""
    run = prepare(
        folder, load_config(folder / "config.json"), StopFlag(), StatusFile(folder)
    ).run
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in run.parameters.values():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    figures = backward_step(run, list(range(len(run.data.pairs))))
    return figures.loss, {name: p.grad for name, p in run.parameters.items()}


def assert_same(one, other):
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    for name, gradient in one[1].items():
        assert (gradient - other[1][name]).norm() <= 1e-4 * gradient.norm() + 1e-8


def config_of(name):
    return {"loss": name, **({"label_smoothing": 0.1} if name in SMOOTHED else {})}


@pytest.mark.parametrize("name", PAIR_NAMES)
def test_a_weight_of_3_is_the_pair_three_times(name, make_run):
    """For losses over all tokens or all pairs of a step too."""
    weighted = [{**PAIRS[0], "weight": 3.0}, *PAIRS[1:4]]
    one = stepped(make_run("weighted", weighted, **config_of(name)))
    three = [PAIRS[0] | {"id": copy} for copy in range(3)]
    other = stepped(make_run("thrice", three + PAIRS[1:4], **config_of(name)))
    assert_same(one, other)


@pytest.mark.parametrize("size", [1e-50, 1e50])
@pytest.mark.parametrize("name", ["sigmoid", "aot", "kto"])
def test_only_the_proportions_of_weights_count(name, size, make_run):
    """float32 knows nothing below 1e-45 or above 3e38."""
    rows = [{**row, "weight": 1.0 + place} for place, row in enumerate(PAIRS[:3])]
    sized = [{**row, "weight": row["weight"] * size} for row in rows]
    one = stepped(make_run("one", rows, loss=name))
    assert_same(one, stepped(make_run("sized", sized, loss=name)))


@pytest.mark.parametrize("name", ["sft", "aot", "aot_unpaired", "orpo"])
def test_losses_over_the_whole_step_do_not_depend_on_its_split(name, make_run):
    """Weights and lengths differ, so a loss taken part by part would differ."""
    rows = [{**row, "weight": 1.0 + place} for place, row in enumerate(PAIRS)]
    whole = stepped(make_run("whole", rows, **config_of(name)))
    split = stepped(make_run("split", rows, micro_batch_size=1, **config_of(name)))
    assert_same(whole, split)


def test_a_coupled_step_in_parts_draws_the_same_dropout_twice(make_run):
    """The second round of forward passes carries back what the first found."""
    options = {"loss": "aot", "lora": {"r": 4, "dropout": 0.5}, "micro_batch_size": 2}
    options |= {"batch_size": 6, "epochs": 2, "learning_rate": 1e-2}
    folder = make_run("dropout", PAIRS, **options)
    run = prepare(
        folder, load_config(folder / "config.json"), StopFlag(), StatusFile(folder)
    ).run
    with torch.no_grad():
        for parameter in run.parameters.values():
            parameter.fill_(0.1)
    set_dropout(run.model, True)
    torch.manual_seed(1)
    figures = backward_step(run, list(range(6)))
    # What the second round logs is what the losses of the first were made of.
    margins = sorted(figures.margins)
    reference = sorted(
        (run.data.reference.chosen - run.data.reference.rejected).tolist()
    )
    policy = sorted(
        one - other
        for one, other in zip(figures.chosen_logps, figures.rejected_logps, strict=True)
    )
    wanted = [
        torch.nn.functional.softplus(torch.tensor(-0.1 * (a - b))).item()
        for a, b in zip(policy, reference, strict=True)
    ]
    assert sum(figures.losses) == pytest.approx(sum(wanted), rel=1e-5)
    assert len(set(margins)) == 6
