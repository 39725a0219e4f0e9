"""Whole runs beside TRL's own: twenty steps with their optimizer, schedule, clipping and
evaluation, each side going its own way from the same start (see `trl_oracle.py`).
"""

import pytest

from tests.training.dpo.runs import PAIRS, read_rows
from tests.training.dpo.trl_oracle import (
    STEP_KEYS,
    apart,
    assert_same_metrics,
    logged,
    our_run,
    trl_dpo,
)
from training.dpo.train import train

RUN_KEYS = STEP_KEYS | {"num_tokens", "grad_norm", "learning_rate", "epoch"}
"""All that TRL logs of a step, but for what it times."""

PLANS = {
    "linear": {"epochs": 10, "batch_size": 3},
    "cosine, warmed up, decayed": {
        "epochs": 10,
        "batch_size": 3,
        "lr_scheduler": "cosine",
        "warmup_ratio": 0.2,
        "weight_decay": 0.1,
    },
    "constant after a warm-up, clipped hard, uneven epochs": {
        "epochs": 10,
        "batch_size": 4,
        "lr_scheduler": "constant",
        "warmup_ratio": 0.13,
        "max_grad_norm": 0.05,
    },
    "not clipped, part of an epoch, another beta": {
        "epochs": 4.5,
        "batch_size": 1,
        "max_grad_norm": None,
        "beta": 0.4,
    },
}


@pytest.mark.parametrize("plan", PLANS)
def test_twenty_steps_go_where_trls_go(plan, family, adapter_of, tmp_path):
    """Errors of rounding grow along the way: a hundred times what a step is allowed."""
    config = PLANS[plan]
    made_of = (family("llama"), adapter_of("llama"), PAIRS)
    trainer = trl_dpo(*made_of, tmp_path / "trl", **config)
    trainer.train()
    run = our_run(*made_of, tmp_path / "run", **config)
    train(run)

    theirs, ours = logged(trainer), read_rows(run.log.path)
    assert len(ours) == len(theirs) >= 20
    for mine, other in zip(ours, theirs, strict=True):
        beta = run.objective.settings.beta
        assert_same_metrics(mine, other, RUN_KEYS, beta, looser=100)
    named = dict(trainer.model.named_parameters())
    start = trainer.passes[0].weights
    moved = {name: run.parameters[name].detach() - start[name] for name in start}
    wanted = {name: named[name].detach() - start[name] for name in start}
    assert apart(moved, wanted) <= 1e-2
    assert set(theirs[0]) - {"step"} == RUN_KEYS
