"""canary.json: what the server must answer if it really serves the weights trained here.

    {"dtype": "float32", "tolerance": 0.001, "prompts": [
        {"token_ids": [1, 17, …], "logprobs": [−3.1, …], "base_logprobs": [−3.2, …]}, …]}

`token_ids` is a short chat rendered by the tokenizer's chat template; `logprobs[i]` is
the log-probability of `token_ids[i + 1]` given what precedes it (one fewer than ids)
under the new policy, `base_logprobs` the same under the base model without adapter.
`dtype` is the trainer's. A server passes if, for every prompt, the mean absolute
difference to `logprobs` is at most `tolerance`; a server running another dtype takes
the larger of the two dtypes' `TOLERANCES`. It serves the adapter at all only if it is
nearer to `logprobs` than to `base_logprobs`, wherever those two differ by more.

`python -m training.dpo.canary BASE_MODEL OUT.json` writes that of a base model alone,
for processes that must not load torch themselves.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from training.dpo.base import load_base, load_tokenizer, pick_device
from training.dpo.batches import Layout, Row
from training.dpo.errors import TrainerError
from training.dpo.files import write_json
from training.dpo.forward import Engine
from training.dpo.sharding import pass_dtype

TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2, "4bit": 0.3}
"""Mean absolute log-prob difference per token that rounding may explain; "4bit" for an
adapter trained on a 4-bit base, which is served on the base as it is."""

CHATS = (
    [
        {"role": "user", "content": "How do I make a good cup of tea?"},
        {
            "role": "assistant",
            "content": "Boil fresh water, warm the pot, wait a little.",
        },
    ],
    [
        {"role": "user", "content": "怎样才能睡得更好?"},
        {"role": "assistant", "content": "每天同一时间睡觉,睡前少看手机。"},
    ],
    [
        {"role": "user", "content": "Name three rivers."},
        {"role": "assistant", "content": "1. Danube\n2. Nile\n3. Yangtze"},
        {"role": "user", "content": "Which is the longest?"},
        {"role": "assistant", "content": "The Nile, by most counts."},
    ],
)


def canary_token_ids(tokenizer: Any, vocabulary: int) -> list[list[int]]:
    """The fixed chats as token ids.

    Without a chat template the contents are joined by line ends and encoded as plain
    text. Raises TrainerError if the tokenizer knows ids that the model does not.
    """
    rendered = []
    for chat in CHATS:
        if tokenizer.chat_template:
            encoded = tokenizer.apply_chat_template(
                list(chat), tokenize=True, return_dict=True
            )
        else:
            encoded = tokenizer(text="\n".join(turn["content"] for turn in chat))
        ids = list(encoded["input_ids"])
        if max(ids) >= vocabulary:
            raise TrainerError(
                f"The tokenizer gives id {max(ids)}, but the model knows"
                f" {vocabulary} ids; they do not belong together."
            )
        rendered.append(ids)
    return rendered


def sequence_logprobs(
    engine: Engine, token_ids: Sequence[list[int]]
) -> list[list[float]]:
    """Log-probs of every token but the first, sequence by sequence."""
    results = []
    for ids in token_ids:
        with torch.no_grad():
            scores = engine.score([Row(ids, 1)])
        results.append(scores.token_logps.tolist())
    return results


def base_canary(model: Any, tokenizer: Any) -> dict[str, Any]:
    """The canary of a base model alone (no adapter on it): shape as canary.json.

    `logprobs` and `base_logprobs` are then the same.
    """
    ids = canary_token_ids(tokenizer, model.get_input_embeddings().weight.shape[0])
    engine = Engine(model, Layout(max_tokens=1, max_pairs=1, pad_id=0))
    logprobs = sequence_logprobs(engine, ids)
    return _canary(model, ids, logprobs, logprobs)


def policy_canary(
    engine: Engine,
    token_ids: Sequence[list[int]],
    base_logprobs: list[list[float]],
) -> dict[str, Any]:
    """The canary of what was trained over `canary_token_ids`.

    `base_logprobs`: their `sequence_logprobs` before the first step, without adapter.
    """
    logprobs = sequence_logprobs(engine, token_ids)
    return _canary(engine.causal_lm, token_ids, logprobs, base_logprobs)


def _canary(
    model: Any,
    token_ids: Sequence[list[int]],
    logprobs: list[list[float]],
    base_logprobs: list[list[float]],
) -> dict[str, Any]:
    dtype = str(pass_dtype(model)).removeprefix("torch.")
    quantized = getattr(model, "is_quantized", False)
    rows = zip(token_ids, logprobs, base_logprobs, strict=True)
    return {
        "dtype": dtype,
        "tolerance": TOLERANCES["4bit" if quantized else dtype],
        "prompts": [
            {"token_ids": i, "logprobs": p, "base_logprobs": b} for i, p, b in rows
        ],
    }


def main(arguments: list[str] | None = None) -> int:
    """Write a base model's canary; exit code 0, or 1 with a sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m training.dpo.canary")
    parser.add_argument("base_model", help="folder or hub id")
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16")
    )
    options = parser.parse_args(arguments)
    try:
        tokenizer = load_tokenizer(options.base_model)
        model = load_base(options.base_model, options.dtype, pick_device())
        write_json(options.out, base_canary(model, tokenizer))
    except (TrainerError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
