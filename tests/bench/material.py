"""What both trainers work on: a random Llama, and pairs of the shapes of the budgets.

`python -m tests.bench.material FOLDER` writes the model, so that torch stays out of
the bench's own process. Random token ids do: no time depends on what they say.
"""

import random
import sys
from pathlib import Path
from typing import Any

LAYERS, HIDDEN, INNER, HEADS, VOCABULARY = 8, 512, 1376, 8, 16_000
MAX_LENGTH = 2048

PROMPTS = {"short": (16, 64), "chat": (128, 512), "long": (512, 1024)}
ANSWERS = (64, 256)
"""Tokens, smallest and largest; every length between is as likely."""


def pairs_of(shape: str, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of pairs.jsonl with token ids; ends of text (id 0) end the answers."""
    rng = random.Random(f"{shape} {seed}")

    def ids(bounds: tuple[int, int]) -> list[int]:
        return [rng.randrange(3, VOCABULARY) for _ in range(rng.randint(*bounds))]

    return [
        {
            "id": f"{shape}-{number}",
            "prompt_ids": ids(PROMPTS[shape]),
            "chosen_ids": [*ids(ANSWERS)[1:], 0],
            "rejected_ids": [*ids(ANSWERS)[1:], 0],
        }
        for number in range(count)
    ]


def write_model(folder: Path) -> None:
    """The model in float32 and a tokenizer of words, whose words nobody needs."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=1,
        eos_token_id=0,
        pad_token_id=0,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    words = {"<end>": 0, "<start>": 1, "<unknown>": 2}
    words |= {f"w{number}": number for number in range(3, VOCABULARY)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unknown>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<start>",
        eos_token="<end>",
        pad_token="<end>",
        unk_token="<unknown>",
    ).save_pretrained(folder)


if __name__ == "__main__":
    write_model(Path(sys.argv[1]))
