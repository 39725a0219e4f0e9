"""Chooses how a run's forward passes are made, and checks it by numbers first.

A few short rows made of the run's own tokens, with every kind of branch, go through the
chosen way and through plain padded rows of transformers; log-probs and the gradients of
what trains must agree. A way that does not fit the model or fails the check gives room
to the next: fused layers, transformers' layers along a tree, plain rows. Leaves out how
the ways work; see `forward.py`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from training.dpo.batches import Layout, Row
from training.dpo.config import Savings
from training.dpo.errors import TrainerError
from training.dpo.forward import Engine
from training.dpo.layer_parts import is_known
from training.dpo.layers import replace_forward
from training.dpo.machine import on_device
from training.dpo.positions import changes_at, rope_settings
from training.dpo.sharding import backbone, is_sharded

TOLERANCES = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (5e-2, 2e-1)}
"""By dtype: mean absolute difference of a token's log-prob, and relative difference of
the gradient by norm, that rounding may explain."""

PROMPT_TOKENS, ANSWER_TOKENS = 24, 16


def make_engine(
    model: Any,
    layout: Layout,
    savings: Savings,
    rows: Sequence[Row],
    max_length: int,
    keeps_input_only: bool = False,
) -> Engine:
    """The thriftiest way that suits `model` (PEFT's, or a transformers causal LM).

    `rows`: some of the run's, for the check. `max_length`: of any row to come. Raises
    TrainerError if the model makes its logits in a way that `head.py` does not know, or
    gives log-probs that are no numbers.
    """
    plain = Engine(model, layout, savings=savings, keeps_input_only=keeps_input_only)
    _refuse_unknown_head(plain, check_rows(rows)[0])
    refused: list[str] = []
    for kind in ("fused", "tree"):
        engine = replace(plain, kind=kind)
        why = unfit(engine, max_length)
        undo = [] if why or kind != "fused" else _replace_layers(engine)
        why = why or _difference(engine, plain, check_rows(rows))
        if why is None:
            return replace(engine, why="; ".join(refused) or "suits the model")
        for way_back in undo:
            way_back()
        refused.append(f"{kind}: {why}")
    return replace(plain, why="; ".join(refused))


def unfit(engine: Engine, max_length: int) -> str | None:
    """Why the model's structure or the config rules the way out; None: it does not."""
    model, savings = engine.causal_lm, engine.savings
    if is_sharded(model):
        return "weights are split over processes"
    if not savings.pack:
        return "savings.pack is false"
    text = model.config.get_text_config()
    window = getattr(text, "sliding_window", None)
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if "sliding_attention" in kinds or getattr(text, "use_sliding_window", True):
        if window is not None and window < max_length:
            return f"a sliding window of {window} tokens"
        kinds.discard("sliding_attention")
    kinds -= {"full_attention"}
    if kinds:
        return f"layers of {', '.join(sorted(kinds))}"
    first = changes_at(text)
    if first is not None and first < max_length:
        return f"positions that depend on a row's length, beyond {first} tokens"
    if engine.kind == "tree":
        return None
    for rope in rope_settings(text):
        first = rope.get("original_max_position_embeddings") or 0
        if rope.get("llama_4_scaling_beta") and first < max_length:
            return f"queries scaled by their position, beyond {first} tokens"
    if not savings.fused_layers or not savings.split_attention:
        return "switched off in savings"
    if engine.causal_lm.device.type != "cpu":
        return "our own layers are for a CPU"
    layers = getattr(backbone(model), "layers", None)
    if layers is None or not all(is_known(layer) for layer in layers):
        return "layers of another structure, dropout, or base weights that train"
    return None


def check_rows(rows: Sequence[Row]) -> list[Row]:
    """Short rows with every kind of branch, made of the tokens of the first rows.

    Two answers to a prompt; answers that begin alike; a prompt that leaves another
    midway; an answer that begins another; a row on its own.
    """
    first = rows[0]
    prompt = first.ids[: first.prompt_length][-PROMPT_TOKENS:] or first.ids[:1]
    answers = [row.ids[row.prompt_length :][:ANSWER_TOKENS] for row in rows[:2]]
    one, other = answers[0], answers[-1][::-1]
    half, whole = len(prompt) // 2, len(prompt)
    longer = [*prompt, *prompt]
    # Of one length but for the first: a product keeps code for each it has met.
    size = len(longer) + len(other) + len(one)
    midway = [*longer[: whole + half], *other, *one, *prompt]
    return [
        Row(longer + one, 2 * whole),
        Row(longer + other + one, 2 * whole),
        Row(longer + one + other, 2 * whole),
        Row((longer + one + one + other)[:size], 2 * whole),
        Row(midway[:size], whole + half),
        Row(other + longer + one, max(1, len(other) // 2)),
    ]


def _refuse_unknown_head(plain: Engine, row: Row) -> None:
    """Raise TrainerError if the model's own log-probs of `row` are not `head.py`'s.

    All ways end in that head, so comparing them with each other would not show it.
    """
    model = plain.causal_lm
    if is_sharded(model):
        return
    with torch.no_grad():
        found = plain.score([row]).token_logps
        ids = on_device(row.ids, found.device)
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
    # The state before a token predicts it.
    own = logits[row.prompt_length - 1 : -1].float().log_softmax(-1)
    own = own.gather(1, ids[row.prompt_length :, None])[:, 0]
    apart = (found - own).abs().mean().item()
    if not math.isfinite(apart):
        raise TrainerError(
            "Log-probs under the base model, with the adapter at the start, are no finite"
            " numbers: its weights are damaged, or too large for the dtype. Fetch base_model"
            " (and parent_adapter) anew, or set dtype to float32."
        )
    # The model rounds to its dtype whatever it does to its logits.
    if not apart <= 5 * TOLERANCES.get(model.dtype, TOLERANCES[torch.bfloat16])[0]:
        raise TrainerError(
            f"{type(model).__name__} makes its logits in a way that this trainer does not"
            f" know: log-probs differ by {apart:.2g} a token from the model's own. Take"
            " another base model."
        )


def _replace_layers(engine: Engine) -> list[Callable[[], None]]:
    layers = list(backbone(engine.causal_lm).layers)
    return [
        replace_forward(layer, engine.holder, layer is layers[-1]) for layer in layers
    ]


def _difference(engine: Engine, plain: Engine, rows: list[Row]) -> str | None:
    """What differs from plain rows by more than rounding; None: nothing."""
    model = engine.causal_lm
    allowed, allowed_gradient = TOLERANCES.get(model.dtype, TOLERANCES[torch.bfloat16])
    # Of a model that trains as a whole some will do: gradients are memory.
    trained = [p for p in model.parameters() if p.requires_grad]
    few = [p for p in trained if p.numel() <= 1 << 20]
    parameters = few if sum(p.numel() for p in few) <= 1 << 24 else few[:16]
    try:
        if engine.kind == "tree":
            # On a GPU its attention is compiled twice: also for passes without gradients.
            with torch.no_grad():
                engine.score(rows)
        with _moved(parameters):
            logps, gradient = _measured(engine, [rows], parameters)
            # One after the other: they would need the most memory of the whole run.
            alone = [[row] for row in rows]
            wanted, wanted_gradient = _measured(plain, alone, parameters)
    # Whatever a model's code does when it is run in a way it does not know.
    except Exception as error:
        # A compiler's first line does not say what failed.
        return f"{type(error).__name__}: {shorten(str(error), 300)}"
    apart = (logps - wanted).abs().mean().item()
    if not apart <= allowed:
        return f"log-probs differ by {apart:.2g} from those of plain rows"
    size = wanted_gradient.norm().item()
    apart = (gradient - wanted_gradient).norm().item() / max(size, 1e-30)
    if size and not apart <= allowed_gradient:
        return f"gradients differ by {apart:.2g} from those of plain rows"
    return None


@contextmanager
def _moved(parameters: list[torch.nn.Parameter]) -> Iterator[None]:
    """While it lasts, weights that are all zeros (a fresh adapter's B) are not.

    Else A's gradient would be zero, and wrong ones could not be told.
    """
    generator = torch.Generator().manual_seed(0)
    zeros = [p for p in parameters if not p.detach().any()]
    with torch.no_grad():
        for parameter in zeros:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise.mul_(0.01))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter in zeros:
                parameter.zero_()


def _measured(
    engine: Engine, passes: list[list[Row]], parameters: list[torch.nn.Parameter]
) -> tuple[Tensor, Tensor]:
    """(log-probs, gradient of their weighted sum as one vector), both float32."""
    logps: list[Tensor] = []
    gradient = torch.zeros(sum(p.numel() for p in parameters))
    for rows in passes:
        with torch.set_grad_enabled(bool(parameters)):
            scores = engine.score(rows).token_logps
        logps.append(scores.detach())
        if parameters:
            signed = scores * _signs(sum(map(len, logps)), logps[-1])
            gradient += _flat_gradient(signed.sum(), parameters)
    return torch.cat(logps), gradient


def _signs(end: int, logps: Tensor) -> Tensor:
    """Weights of the log-probs (T,) that end at place `end`: −½ for every third."""
    places = torch.arange(end - len(logps), end, device=logps.device)
    return torch.where(places % 3 == 0, -0.5, 1.0)


def _flat_gradient(value: Tensor, parameters: list[torch.nn.Parameter]) -> Tensor:
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    parts = [
        torch.zeros(p.numel()) if g is None else g.detach().float().flatten().cpu()
        for p, g in zip(parameters, found, strict=True)
    ]
    return torch.cat(parts)
