"""What both trainers work on: random Llamas, and pairs of the shapes of the budgets.

`python -m tests.bench.material FOLDER MODEL DTYPE` writes a model, so that torch stays
out of the bench's own process. Random token ids do: no time depends on what they say.
"""

import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ModelShape:
    """A Llama's sizes, and the rank of the adapter on all its linear layers."""

    layers: int
    hidden: int
    inner: int
    heads: int
    key_value_heads: int
    vocabulary: int
    tied: bool = False
    rank: int = 16

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of a layer's: q, k, v, o, gate, up, down."""
        narrow = self.hidden // self.heads * self.key_value_heads
        attention = [
            (self.hidden, self.hidden),
            (self.hidden, narrow),
            (self.hidden, narrow),
            (self.hidden, self.hidden),
        ]
        wide = (self.hidden, self.inner)
        return [*attention, wide, wide, (self.inner, self.hidden)]


MODELS = {
    "small": ModelShape(8, 512, 1376, 8, 8, 32_000),
    "0.5b": ModelShape(24, 896, 4864, 14, 2, 151_936, tied=True),
    "7b": ModelShape(32, 4096, 11008, 32, 32, 32_000),
    "tiny": ModelShape(2, 64, 128, 2, 2, 512, rank=4),
}
"""`tiny` measures nothing: it tries the bench itself."""

MAX_LENGTH = 2048


@dataclass(frozen=True)
class PairShape:
    """Tokens, smallest and largest; every length between is as likely.

    `pairs_a_prompt` successive pairs have one prompt and different answers. `pairs`: how
    many a side on a CPU, enough for mixed lengths to show.
    """

    prompt: tuple[int, int]
    answer: tuple[int, int]
    pairs: int
    pairs_a_prompt: int = 1


def _uniform(prompt: int, answer: int) -> PairShape:
    return PairShape((prompt, prompt), (answer, answer), 8)


SHAPES = {
    "short": PairShape((16, 64), (64, 256), 16),
    "chat": PairShape((128, 512), (64, 256), 12),
    "long": PairShape((512, 1024), (64, 256), 12),
    "group": PairShape((128, 512), (64, 256), 12, pairs_a_prompt=4),
    "uniform-0.25": _uniform(64, 256),
    "uniform-1": _uniform(192, 192),
    "uniform-4": _uniform(512, 128),
    "uniform-16": _uniform(768, 48),
}
"""`uniform-N`: all lengths alike, the prompt N times as long as an answer."""


def pairs_of(
    shape: str, count: int, vocabulary: int = 32_000, seed: int = 0
) -> list[dict[str, Any]]:
    """Rows of pairs.jsonl with token ids; ends of text (id 0) end the answers."""
    rng = random.Random(f"{shape} {seed}")
    lengths = SHAPES[shape]

    def ids(bounds: tuple[int, int], less: int = 0) -> list[int]:
        return [
            rng.randrange(3, vocabulary) for _ in range(rng.randint(*bounds) - less)
        ]

    rows = []
    prompt: list[int] = []
    for number in range(count):
        if number % lengths.pairs_a_prompt == 0:
            prompt = ids(lengths.prompt)
        rows.append(
            {
                "id": f"{shape}-{number}",
                "prompt_ids": prompt,
                "chosen_ids": [*ids(lengths.answer, less=1), 0],
                "rejected_ids": [*ids(lengths.answer, less=1), 0],
            }
        )
    return rows


def write_model(folder: Path, model: ModelShape, dtype: str) -> None:
    """The model and a tokenizer of words, whose words nobody needs."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=model.vocabulary,
        hidden_size=model.hidden,
        intermediate_size=model.inner,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.key_value_heads,
        tie_word_embeddings=model.tied,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=1,
        eos_token_id=0,
        pad_token_id=0,
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        made = AutoModelForCausalLM.from_config(shape, dtype=getattr(torch, dtype))
    made.save_pretrained(folder)
    words = {"<end>": 0, "<start>": 1, "<unknown>": 2}
    words |= {f"w{number}": number for number in range(3, model.vocabulary)}
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
    write_model(Path(sys.argv[1]), MODELS[sys.argv[2]], sys.argv[3])
