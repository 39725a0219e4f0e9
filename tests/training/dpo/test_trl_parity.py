"""Rows of every form, tokenizers and models of several families: TRL's own DPOTrainer
against ours, step by step from equal weights (see `trl_oracle.py`).

Token ids are equal; log-probs of each answer, policy and reference, agree to 1e-5;
every metric and the gradient of every adapter weight (1e-4 by norm) at each step.
"""

import pytest

from tests.training.dpo.runs import chat
from tests.training.dpo.trl_oracle import (
    assert_same_steps,
    our_run,
    trl_dpo,
)

MAX_LENGTH = 60


def turns(*contents, system=None):
    """Messages of user and assistant in turn."""
    roles = ("user", "assistant")
    messages = [
        {"role": roles[place % 2], "content": content}
        for place, content in enumerate(contents)
    ]
    first = [{"role": "system", "content": system}] if system else []
    return first + messages


def variables(thinking, tone):
    return {"enable_thinking": thinking, "tone": tone}


ROWS = {
    "chats": [
        chat("How do I boil an egg?", "1. water 2. time", "I do not know."),
        chat("怎样煮鸡蛋?", "先把水烧开,再煮。", "不知道。"),
        chat("Salt?", "1", "2"),
        chat("你好", "1. 你好 " * 20, "你"),  # cut at max_length on one side
        chat("Tea?", "I do not know.", "I do not."),  # answers that begin alike
        chat("Tea?", "Of course!", "I do not."),  # the same prompt again
        chat("Tea?", "Of course!", "Here is a list"),  # and the same chosen answer
        chat("water " * 60, "dropped", "by both"),
        chat("water " * 20, "wait", "no " * 30),  # both cut, or long beside short
        chat("Time?", "wait", "no " * 60),
    ],
    "turns": [
        chat("", "1. salt", "no") | {"prompt": turns("a", "b", "c")},
        chat("", "the list", "no no") | {"prompt": turns("a", "b", "c", "d", "e")},
        chat("", "wait", "no") | {"prompt": turns("Time?", system="Be brief.")},
        chat("", "先", "不") | {"prompt": turns("鸡蛋", "好", "再", system="水")},
        # answers of several turns
        chat("", "", "no") | {"prompt": turns("x"), "chosen": turns("1", "2", "3")[1:]},
    ],
    "strings": [
        {"prompt": "boil the water, ", "chosen": "then salt", "rejected": "then wait"},
        {"prompt": "怎样", "chosen": "煮鸡蛋", "rejected": "你好<|im_end|>"},
        {"prompt": "I do", "chosen": " not know", "rejected": ""},  # one token
        {"prompt": "I do", "chosen": "", "rejected": "ugh"},
        {"prompt": "", "chosen": "salt", "rejected": "time"},  # none before, or BOS
        {"prompt": "I do", "chosen": " not", "rejected": "ugh"},
        {"prompt": "water " * 9, "chosen": "s", "rejected": "salt " * 30},
    ],
    "strings without a prompt": [
        {"chosen": "I do know the list", "rejected": "I do not"},
        {"chosen": "先把水烧开", "rejected": "先把盐"},
        {"chosen": "a b", "rejected": "a bc"},
    ],
    "chats without a prompt": [
        {"chosen": turns("Salt?", "1"), "rejected": turns("Salt?", "2 3")},
        {"chosen": turns("a", "b", "c", "d"), "rejected": turns("a", "b", "c", "e")},
        {"chosen": turns("a", "b", "c", "d"), "rejected": turns("a", "x", "c", "d")},
    ],
    "tools": [
        chat("Time?", "wait", "no", tools='[{"name": "clock", "description": "钟"}]'),
        chat("Salt?", "1", "2", tools='[{"name": "salt"}]'),
    ],
    "template's own variables": [
        chat("Time?", "wait", "no", chat_template_kwargs=variables(False, "kind")),
        chat("Salt?", "1", "2", chat_template_kwargs=variables(True, "brief")),
    ],
}

CASES = {
    "chats": ("llama", "qwen2", "llama2", "granite", "gemma2", "cohere", "gpt2"),
    "turns": ("llama", "qwen2", "llama2", "gemma2"),
    "strings": ("llama", "llama2", "granite"),
    "chats without a prompt": ("llama", "granite"),
    "strings without a prompt": ("llama", "llama2"),
    "tools": ("qwen2",),
    "template's own variables": ("qwen2",),
}


@pytest.mark.parametrize(
    ("rows", "name"), [(rows, name) for rows, names in CASES.items() for name in names]
)
def test_every_step_from_equal_weights_is_trls(
    rows, name, family, adapter_of, tmp_path
):
    """Two epochs in steps of three pairs, the last of an epoch smaller."""
    config = {"epochs": 2, "batch_size": 3, "max_length": MAX_LENGTH}
    made_of = (family(name), adapter_of(name), ROWS[rows])
    trainer = trl_dpo(*made_of, tmp_path / "trl", **config)
    run = our_run(*made_of, tmp_path / "run", **config)

    pairs, theirs = run.data.pairs, list(trainer.train_dataset)
    assert [p.prompt_ids for p in pairs] == [row["prompt_ids"] for row in theirs]
    for pair, row in zip(pairs, theirs, strict=True):
        room = MAX_LENGTH - len(pair.prompt_ids)
        assert pair.chosen_ids == row["chosen_ids"][:room]
        assert pair.rejected_ids == row["rejected_ids"][:room]

    trainer.train()
    assert_same_steps(trainer, run)
