"""Trains the starter model: a small Llama from scratch on the written chats.

Whole chats are packed into rows and cannot see each other, so the model learns
them exactly as it will meet them, each from its first position on. Only the
assistant's tokens are learned. Leaves out where the model is kept (`build`).
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from inference.starter.chats import Message
from inference.starter.tokens import END, SEPARATOR, START

IGNORED = -100
THREADS = 2
"""Fixed: sums taken by another number of threads round differently."""


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights, besides the tables of topics."""

    seed: int = 7
    vocab_size: int = 2048
    hidden_size: int = 192
    intermediate_size: int = 512
    layers: int = 4
    heads: int = 3
    context: int = 2048
    steps: int = 400
    rows: int = 16
    row_length: int = 256
    matrix_learning_rate: float = 1.5e-2
    learning_rate: float = 3e-3
    """For embeddings and norms; the matrices have their own."""
    initial_std: float = 0.05
    warmup: int = 10
    chats_per_topic: int = 300

    def facts(self) -> dict[str, int | float]:
        return asdict(self)


@dataclass
class Row:
    """One packed row: token ids, labels (IGNORED = not learned), chat numbers."""

    ids: list[int]
    labels: list[int]
    chats: list[int]
    count: int = 0


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with fresh weights drawn from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        head_dim=recipe.hidden_size // recipe.heads,
        max_position_embeddings=recipe.context,
        initializer_range=recipe.initial_std,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


def encode_chat(
    tokenizer: PreTrainedTokenizerFast, chat: list[Message]
) -> tuple[list[int], list[int]]:
    """A chat's token ids and labels; only assistant text and its end are learned."""
    start, separator, end = tokenizer.convert_tokens_to_ids([START, SEPARATOR, END])
    ids: list[int] = []
    labels: list[int] = []
    for message in chat:
        head = [start, *_text_ids(tokenizer, message["role"]), separator]
        body = [*_text_ids(tokenizer, message["content"]), end]
        ids += head + body
        learned = message["role"] == "assistant"
        labels += [IGNORED] * len(head)
        labels += body if learned else [IGNORED] * len(body)
    return ids, labels


def pack_rows(
    chats: Iterable[tuple[list[int], list[int]]], length: int, open_rows: int = 32
) -> Iterator[Row]:
    """Packs whole chats into rows of at most `length` tokens, best fit first.

    Chats longer than a row are left out. Up to `open_rows` rows wait for a chat
    that fits; the fullest goes out first, so chats stay well mixed.
    """
    waiting: list[Row] = []
    for ids, labels in chats:
        if len(ids) > length:
            continue
        fits = [row for row in waiting if len(row.ids) + len(ids) <= length]
        if fits:
            row = max(fits, key=lambda row: len(row.ids))
        else:
            if len(waiting) == open_rows:
                fullest = max(waiting, key=lambda row: len(row.ids))
                waiting.remove(fullest)
                yield fullest
            row = Row([], [], [])
            waiting.append(row)
        row.chats += [row.count] * len(ids)
        row.ids += ids
        row.labels += labels
        row.count += 1
    yield from waiting


def make_batch(rows: list[Row], pad: int) -> dict[str, torch.Tensor]:
    """Tensors of a batch: ids, positions and labels (B, T), mask (B, 1, T, T)."""
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), pad)
    labels = torch.full((len(rows), length), IGNORED)
    chats = torch.full((len(rows), length), -1)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = torch.tensor(row.ids)
        labels[index, : len(row.ids)] = torch.tensor(row.labels)
        chats[index, : len(row.ids)] = torch.tensor(row.chats)
    positions = torch.arange(length).expand(len(rows), length)
    first = torch.ones_like(chats, dtype=torch.bool)
    first[:, 1:] = chats[:, 1:] != chats[:, :-1]
    starts = torch.where(first, positions, 0).cummax(dim=1).values
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = chats[:, :, None] == chats[:, None, :]
    return {
        "input_ids": ids,
        "labels": labels,
        "position_ids": positions - starts,
        "attention_mask": (same & causal)[:, None],
    }


def train_model(
    model: LlamaForCausalLM,
    batches: Iterable[dict[str, torch.Tensor]],
    recipe: Recipe,
    on_step: Callable[[int, float], None],
) -> float:
    """Trains in place for the recipe's steps; returns the mean loss of the last 20.

    bf16 matrix products where the processor has them (twice as fast there),
    weights and optimizer always float32.
    """
    torch.set_num_threads(THREADS)
    half = torch.cpu._is_avx512_bf16_supported()
    optimizers = _new_optimizers(model, recipe)
    losses: list[float] = []
    model.train()
    for step, batch in zip(range(recipe.steps), batches, strict=False):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * _schedule(step, recipe)
        labels = batch.pop("labels")
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = model(**batch, use_cache=False).logits
        loss = cross_entropy(
            logits[:, :-1].flatten(0, 1).float(),
            labels[:, 1:].flatten(),
            ignore_index=IGNORED,
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        on_step(step + 1, losses[-1])
    model.eval()
    tail = losses[-20:]
    return sum(tail) / len(tail)


def _new_optimizers(
    model: LlamaForCausalLM, recipe: Recipe
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for the rest.

    In a trial of 100 steps Muon brought the loss to 0.9, AdamW alone to 1.9.
    """
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and "embed_tokens" not in name
        (matrices if is_matrix else rest).append(parameter)
    muon = torch.optim.Muon(
        [{"params": matrices, "initial_lr": recipe.matrix_learning_rate}],
        lr=recipe.matrix_learning_rate,
        weight_decay=0.01,
        adjust_lr_fn="match_rms_adamw",
    )
    adam = torch.optim.AdamW(
        [{"params": rest, "initial_lr": recipe.learning_rate}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=0.0,
        fused=True,
    )
    return [muon, adam]


def _schedule(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to a fiftieth."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def _text_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
