"""A step on a device that is not the CPU, as far as a CPU can tell: torch's `meta` device
computes nothing, but it refuses what lies elsewhere, and to tell a number, which on a GPU
would be a wait for all that was queued.
"""

import pytest
import torch

from tests.training.dpo.test_engine import make_model
from tests.training.dpo.test_flex import uncompiled
from training.dpo import flex, forward, tree_attention
from training.dpo.batches import Layout, rows_of
from training.dpo.config import parse_config
from training.dpo.data import Pair
from training.dpo.evaluate import logps_of, step_weights
from training.dpo.forward import Engine
from training.dpo.head import LOGITS_AT_ONCE
from training.dpo.loss import objective_of, pair_losses
from training.dpo.reference import FixedLogps, PairSet
from training.dpo.tree_attention import attention_way

PAIRS = [
    Pair(f"p{index}", index, [5, 6, 7, 8 + index] * 9, [11, 12, index], [13, 14] * 3)
    for index in range(4)
]
EVERYONE = range(len(PAIRS))


@pytest.fixture(autouse=True)
def meta_as_gpu(monkeypatch):
    for table in (forward.CALL_TOKENS, LOGITS_AT_ONCE):
        monkeypatch.setitem(table, "meta", table["cuda"])
    for module in (forward, tree_attention):
        monkeypatch.setattr(
            module, "attention_way", lambda kind, split: attention_way("cuda", split)
        )
    monkeypatch.setattr(flex, "kernel", lambda: uncompiled)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)


@pytest.mark.parametrize(
    ("family", "dtype", "checkpointing"),
    [
        ("llama", torch.float32, False),
        ("qwen3", torch.bfloat16, True),
        ("gpt2", torch.bfloat16, False),
    ],
)
def test_a_step_stays_on_its_device_and_waits_for_nothing(family, dtype, checkpointing):
    """From ids to clipped gradients, the way a GPU takes. Left out: plain rows, whose
    positions transformers looks at, and AdamW, which torch has not there."""
    config = parse_config(
        {"base_model": "m", "loss": {"sigmoid": 1, "ipo": 1, "sft": 1}, "ld_alpha": 0.5}
    )
    model = make_model(family, dtype).to("meta")
    layout = Layout(512, None, 0)
    engine = Engine(model, layout, "tree", keeps_input_only=checkpointing)
    trained = [p for p in model.parameters() if p.requires_grad]
    fixed = FixedLogps.none(len(PAIRS))
    data, objective = PairSet(PAIRS, fixed, fixed), objective_of(config)

    scores = engine.score(rows_of(PAIRS))
    step = step_weights(PAIRS, EVERYONE)
    logps = logps_of(scores, data, list(EVERYONE), objective, step)
    losses = pair_losses(objective.weights, logps, objective.settings)
    (losses * logps.weights).sum().backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)

    assert losses.is_meta and losses.dtype == torch.float32
    assert all(weight.grad.is_meta for weight in trained)
    assert {weight.grad.dtype for weight in trained} == {torch.float32}
