"""How long a row the base model can read, and rows that are longer.

A model whose positions are a table (GPT-2, OPT, GPT-J) has nothing beyond its end; one
with rotary positions computes on, and says what it never learnt to; one of a kind
("dynamic") does so by what it read before. Leaves out how rows beyond the positions
that were learnt are told; see `guardrails.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from training.dpo.data import Answer, Pair
from training.dpo.errors import TrainerError

OFFSET = 2
"""Rows that a table may have beyond the model's positions: OPT's begins at 2."""


def positions_of(model: Any) -> int | None:
    """Tokens of the longest row that the model was made for; None: it does not say.

    With rope scaling, which some configs count into `max_position_embeddings` and
    others do not, the larger of both readings.
    """
    text = model.config.get_text_config()
    most = getattr(text, "max_position_embeddings", None)
    if not isinstance(most, int) or most < 1:
        return None
    scaled = [
        int(kind["factor"] * (kind.get("original_max_position_embeddings") or most))
        for kind in rope_settings(text)
        if kind.get("factor")
    ]
    return max([most, *scaled])


def changes_at(text_config: Any) -> int | None:
    """Tokens of a row beyond which its length changes its positions; None: it never does.

    "longrope" (Phi-3, Phi-4 mini) then takes other frequencies for the whole row. So does
    "dynamic", whose longer rows are refused (`most_tokens`).
    """
    most = getattr(text_config, "max_position_embeddings", None) or 0
    return min(
        (
            rope.get("original_max_position_embeddings") or most
            for rope in rope_settings(text_config)
            if rope.get("rope_type") == "longrope"
        ),
        default=None,
    )


def rope_settings(text_config: Any) -> list[dict[str, Any]]:
    """The config's `rope_parameters`, of each kind of layer where these differ."""
    rope = getattr(text_config, "rope_parameters", None) or {}
    return [kind for kind in (rope, *rope.values()) if isinstance(kind, dict)]


def has_table(model: Any) -> bool:
    """Whether positions are looked up in a table of so many rows."""
    most = positions_of(model)
    if most is None:
        return False
    words = model.get_input_embeddings()
    tables = [
        module.weight
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding) and module is not words
    ]
    tables += [b for name, b in model.named_buffers() if "embed_positions" in name]
    return any(most <= table.shape[0] <= most + OFFSET for table in tables)


def most_tokens(model: Any) -> int | None:
    """Tokens beyond which no row has log-probs of its own; None: there is no such end.

    The end of a table, or where "dynamic" frequencies begin: transformers keeps those of
    the longest row until one comes that is short, so that they depend on what came before.
    """
    if has_table(model):
        return positions_of(model)
    text = model.config.get_text_config()
    kinds = {rope.get("rope_type") for rope in rope_settings(text)}
    return text.max_position_embeddings if "dynamic" in kinds else None


def refuse_too_long(model: Any, rows: Mapping[str, Sequence[Pair]]) -> None:
    """Raise TrainerError if a row, by file, is longer than `most_tokens`."""
    most = most_tokens(model)
    if most is None:
        return
    why = f"the model has positions for {most} only"
    if not has_table(model):
        why = (
            f'beyond {most} the model\'s positions ("rope_type": "dynamic") depend on'
            " the rows before"
        )
    for name, pairs in rows.items():
        worst = max(pairs, key=lambda pair: pair.longest, default=None)
        if worst is None or worst.longest <= most:
            continue
        is_chosen = len(worst.chosen_ids) >= len(worst.rejected_ids)
        side = "chosen" if is_chosen else "rejected"
        if isinstance(worst, Answer):
            side = "completion"
        raise TrainerError(
            f'{name} line {worst.line}: the prompt and "{side}" have {worst.longest}'
            f' tokens, but {why}: set "max_length": {most} in config.json, or shorten'
            " the row."
        )
