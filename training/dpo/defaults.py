"""What is chosen where config.json leaves it open, and why; all goes to summary.json.

Choices look at the model's size, the number of pairs and the device only, so that the
same input gives the same run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from training.dpo.config import TrainingConfig, loss_weights
from training.dpo.loss_facts import facts_of

WANTED_UPDATES = 100
"""Optimizer steps below which a few dozen pairs hardly move a policy: with 19 pairs on
the starter model, share of answers of the wanted kind 7 % before, 10 % after 60 steps
of two pairs, 42 % after 114 of one, on the same six epochs."""

MOST_EPOCHS = 50

LEAST_COMPARED = 4
"""In a step at least, where a loss compares what a step holds (AOT), or estimates a KL from
it (KTO), as TRL's documentation advises."""


@dataclass(frozen=True)
class Settled:
    """The figures that decide how far a run goes, and the reason for each."""

    learning_rate: float
    batch_size: int
    epochs: float
    sft_learning_rate: float
    reasons: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """{name: {"value", "why"}}."""
        return {
            name: {"value": getattr(self, name), "why": why}
            for name, why in self.reasons.items()
        }


def settle(config: TrainingConfig, parameters: int, pairs: int) -> Settled:
    """Fill in learning rate, batch size and epochs.

    `parameters`: weights of the base model; `pairs`: rows that will be trained on.
    """
    reasons = dict.fromkeys(("learning_rate", "batch_size", "epochs"), "given")
    rate, epochs, batch = config.learning_rate, config.epochs, config.batch_size
    if rate is None:
        rate = usual_rate(config.tuning, parameters)
        size = f"{parameters / 1e6:.1f} million weights"
        tuning = "full tuning of" if config.tuning == "full" else "LoRA on"
        reasons["learning_rate"] = f"usual for {tuning} a model of {size}"
    names = loss_weights(config)
    least = 1
    if any(facts.coupled or facts.unpaired for facts in facts_of(names)):
        least = min(LEAST_COMPARED, pairs)
    if epochs is None:
        epochs = _epochs(pairs, batch or least)
        reasons["epochs"] = (
            f"{pairs} pairs: few pairs are seen more often, for at least"
            f" {WANTED_UPDATES} updates where {MOST_EPOCHS} epochs allow it"
        )
    if batch is None:
        largest = _batch(pairs, epochs)
        batch = max(least, largest)
        updates = math.ceil(math.ceil(pairs / batch) * epochs)
        reasons["batch_size"] = (
            f"the largest power of two that leaves at least {WANTED_UPDATES} updates;"
            f" it makes {updates}"
        )
        if updates < WANTED_UPDATES and batch == 1:
            reasons["batch_size"] = (
                f"one pair an update, as even that makes fewer than {WANTED_UPDATES}:"
                f" {updates}"
            )
        if batch > largest:
            reasons["batch_size"] = (
                f"at least {batch}, as this loss compares what a step holds; it makes"
                f" {updates} updates"
            )
    sft_rate = config.sft_learning_rate
    if config.sft_epochs:
        reasons["sft_learning_rate"] = "given"
    if sft_rate is None:
        sft_rate = usual_sft_rate(config.tuning, parameters)
        if config.sft_epochs:
            size = f"{parameters / 1e6:.1f} million weights"
            tuning = "full tuning of" if config.tuning == "full" else "LoRA on"
            reasons["sft_learning_rate"] = (
                f"usual for supervised training with {tuning} a model of {size}"
            )
    return Settled(rate, batch, epochs, sft_rate, reasons)


def usual_rate(tuning: str, parameters: int) -> float:
    """The learning rate to begin with, for a base of so many weights.

    LoRA: measured on the starter (5e-4), 2e-5 to 1e-4 usual from 0.5 to 8 billion.
    Full tuning: a twentieth, which makes 1e-6 at 7 billion, where runs use 5e-7
    (Zephyr, Tulu 3) to 5e-6.
    """
    part = 20 if tuning == "full" else 1
    for below, rate in ((50e6, 5e-4), (300e6, 2e-4), (2e9, 1e-4), (5e9, 5e-5)):
        if parameters < below:
            return rate / part
    return 2e-5 / part


EVALUATIONS = 10
"""In a run, beside the one before the first step: enough to see where a curve turns."""

EVALUATION_SHARE = 0.1
"""Of the cost of training, at most, that the evaluations between start and end take."""

FORWARD_SHARE = 1 / 3
"""Of a training step's cost per token, without gradients: forward alone, of forward and
a backward pass twice as dear (with LoRA nearer to one half)."""


def evaluation_steps(total_steps: int, step_tokens: float, held_out_tokens: int) -> int:
    """Steps between evaluations where config.json gives no `eval_steps`.

    `step_tokens`: what a step trains on average. A result of `total_steps` or more
    means start and end only. From counts alone, so that a resumed run evaluates at the
    same steps.
    """
    by_number = math.ceil(total_steps / EVALUATIONS)
    cost = FORWARD_SHARE * held_out_tokens
    by_cost = math.ceil(cost / (EVALUATION_SHARE * max(step_tokens, 1)))
    return max(1, by_number, by_cost)


def usual_sft_rate(tuning: str, parameters: int) -> float:
    """The supervised learning rate to begin with, for a base of so many weights.

    LoRA: 2e-4 up to 13 billion weights and 1e-4 beyond, as QLoRA's paper has it (table
    9 of https://arxiv.org/abs/2305.14314); more for the small models it does not treat.
    That is some twice to ten times DPO's, whose gradient is weighed down by beta and
    fades as margins grow. Full tuning: a twentieth, 1e-5 at 7 billion, where runs use
    5e-6 (Tulu 3) to 2e-5 (Zephyr).
    """
    part = 20 if tuning == "full" else 1
    for below, rate in ((50e6, 1e-3), (300e6, 5e-4), (20e9, 2e-4)):
        if parameters < below:
            return rate / part
    return 1e-4 / part


def _epochs(pairs: int, batch: int) -> float:
    usual = 6 if pairs < 200 else 3 if pairs < 2000 else 1
    needed = math.ceil(WANTED_UPDATES / math.ceil(pairs / batch))
    return float(min(MOST_EPOCHS, max(usual, needed)))


def _batch(pairs: int, epochs: float) -> int:
    largest = min(pairs, 32 if pairs >= 5000 else 16)
    batch = 1
    while (
        2 * batch <= largest
        and math.ceil(pairs / (2 * batch)) * epochs >= WANTED_UPDATES
    ):
        batch *= 2
    return batch


def forward_tokens(model_config: Any, memory_bytes: int, on_gpu: bool) -> int:
    """Tokens of one forward pass with gradients: what keeps the processor busy.

    More would cost memory and gain nothing: on a CPU matrix products are at their best
    from some 256 rows on, a narrow model (below 512) needs more for its many small
    operations. A GPU takes 16384. Never more than half the memory holds, counting what
    a transformer layer keeps for the backward pass (about 16 hidden and 4 feed-forward
    vectors a token, in float32). A power of two of at least 256, so that small changes
    in free memory between two runs do not change how they round.
    """
    text = model_config.get_text_config()
    hidden = text.hidden_size
    inner = _size(text, "intermediate_size") or 4 * hidden
    per_token = 4 * text.num_hidden_layers * (16 * hidden + 4 * inner)
    fits = max(1, memory_bytes // 2 // per_token)
    busy = 16384 if on_gpu else max(512, 1 << (((1 << 18) - 1) // hidden).bit_length())
    return max(256, min(busy, 1 << (fits.bit_length() - 1)))


FILLED = 0.6
"""Of the memory, by weights and by what passes keep; the rest is for gradients, logits
and the process."""


def passes_held(pass_bytes: int, weight_bytes: int, memory: int) -> int:
    """How many forward passes `memory` holds at once, 0 or more.

    `pass_bytes`: what the largest keeps for its backward pass (`kept_bytes`).
    """
    return max(0, int((FILLED * memory - weight_bytes) // max(1, pass_bytes)))


def kept_bytes(
    model_config: Any, tokens: int, number_bytes: int, fused: bool = True
) -> int:
    """What a pass of `tokens` tokens keeps for the backward pass, estimated.

    Through our own layers (`fused`): of each token a layer keeps its input and what
    lies between attention and feed-forward layer, the queries, keys and values, and
    what attention gave. Through transformers' it keeps some 44 bytes a hidden and 13 an
    inner number (counted with LoRA on all linear layers, float32; in bfloat16 less, but
    PEFT and the norms keep float32 copies there).
    """
    text = model_config.get_text_config()
    hidden = text.hidden_size
    # A state-space model has no heads: its states are some hidden vectors wide.
    heads = _size(text, "num_attention_heads") or 1
    size = _size(text, "head_dim") or hidden // heads
    key_heads = _size(text, "num_key_value_heads") or heads
    inner = _size(text, "intermediate_size") or 4 * hidden
    kept = 2 * hidden + 2 * heads * size + 2 * key_heads * size
    a_token = kept * number_bytes if fused else 44 * hidden + 13 * inner
    return int(text.num_hidden_layers * tokens * a_token)


def _size(text: Any, name: str) -> int | None:
    """A size that the config gives, the largest where layers differ in it (Gemma 4's
    heads, Gemma 3n's inner vectors); None: it has none.
    """
    try:
        found = getattr(text, name, None)
    except RuntimeError:  # transformers': each layer has its own
        found = [getattr(layer, name, None) for layer in text.per_layer_config]
    sizes = found if isinstance(found, Sequence) else [found]
    return max((size for size in sizes if size), default=None)
