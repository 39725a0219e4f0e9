"""Rows, run folders and what they hold, for the trainer's tests."""

import json

from training.dpo.process import StopFlag
from training.dpo.run import run_folder


def chat(prompt, chosen, rejected, **more):
    """A row of pairs.jsonl as messages."""
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        **more,
    }


PAIRS = [
    chat("How do I boil an egg?", "1. water 2. time", "I do not know.", id="egg"),
    chat("怎样煮鸡蛋?", "先把水烧开,再煮八分钟。", "不知道。", id="蛋"),
    chat("How do I make tea?", "1. water 2. tea", "Of course! Here is", id="tea"),
    chat("Salt?", "1", "I do not know, I do not know, no.", id="salt"),
    chat("你好", "1. 你好 2. 谢谢", "你", id="hello"),
    chat("What is time?", "Here is a list: 1. wait 2. wait", "No.", id="time"),
]


def write_run(folder, base, pairs=PAIRS, held_out=None, **config):
    """A run folder with an adapter of rank 4, all else by default or as given."""
    folder.mkdir()
    values = {"base_model": str(base), "lora": {"r": 4}} | config
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    write_rows(folder / "pairs.jsonl", pairs)
    if held_out is not None:
        write_rows(folder / "held_out.jsonl", held_out)
    return folder


def write_rows(path, rows):
    """One JSON object a line."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def read_rows(path):
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def read_json(path):
    """The value of a JSON file."""
    return json.loads(path.read_text("utf-8"))


def train_here(folder):
    """Do the run in this process."""
    run_folder(folder, StopFlag())
