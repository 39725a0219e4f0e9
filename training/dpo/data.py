"""Rows of pairs.jsonl and held_out.jsonl turned into token ids, by TRL's rules.

A row is a conversation (lists of messages) or plain strings:

- no "prompt": the longest common beginning of chosen and rejected is the prompt;
- messages: the tokenizer's chat template renders the prompt with a generation prompt,
  and prompt + answer as a whole; nothing is appended, so what the template prints
  after an answer counts as part of it;
- strings: the end-of-text token's text is appended to each answer that lacks it;
- the answer starts where its rendering leaves the rendered prompt (the earlier of the
  two sides), so that no token depends on the cut between prompt and answer;
- `prompt_ids`, `chosen_ids`, `rejected_ids`, if given, are used as they are;
- each side is cut at its end to `max_length` tokens; a pair whose prompt fills it is
  dropped.

Unlike TRL, what is dropped or cut is counted with its line numbers, each row is looked
at (not only the first), and a malformed row is an error naming line and field. Leaves
out images and unpaired (KTO) rows.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.dpo.config import is_number
from training.dpo.errors import TrainerError
from training.dpo.files import read_jsonl

LINES_SHOWN = 50
ID_KEYS = ("prompt_ids", "chosen_ids", "rejected_ids")
RENDERING = (
    *("conversation", "tokenize", "return_dict", "return_tensors", "tokenizer_kwargs"),
    *("add_generation_prompt", "continue_final_message", "padding", "truncation"),
    *("max_length", "return_assistant_tokens_mask"),
)
"""What `apply_chat_template` takes besides a template's variables; ours to set."""


@dataclass(frozen=True)
class Pair:
    """One preference pair as token ids, already cut to `max_length`."""

    id: str
    line: int
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    weight: float = 1.0

    @property
    def longest(self) -> int:
        """Tokens of the longer side, prompt included."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))

    @property
    def chosen_tokens(self) -> int:
        """Tokens of the prompt and the chosen answer."""
        return len(self.prompt_ids) + len(self.chosen_ids)

    @property
    def chosen_scored(self) -> int:
        """Tokens of the chosen answer that a token precedes: those with a log-prob."""
        return len(self.chosen_ids) - (0 if self.prompt_ids else 1)

    @property
    def tokens(self) -> int:
        """Tokens of both sides, the prompt counted twice as TRL's num_tokens does."""
        answers = len(self.chosen_ids) + len(self.rejected_ids)
        return 2 * len(self.prompt_ids) + answers


@dataclass
class RowReport:
    """What became of a file's rows; goes into summary.json."""

    read: int = 0
    used: int = 0
    cut: dict[str, list[int]] = field(default_factory=dict)
    dropped: dict[str, list[int]] = field(default_factory=dict)
    left_out_of_prompt: list[int] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """{"read", "used", "cut": {reason: {"count", "lines"}}, "dropped": …}."""
        return {
            "read": self.read,
            "used": self.used,
            "cut": {why: _counted(lines) for why, lines in self.cut.items()},
            "dropped": {why: _counted(lines) for why, lines in self.dropped.items()},
            "prompt_end_left_out": _counted(self.left_out_of_prompt),
        }


def _counted(lines: list[int]) -> dict[str, Any]:
    return {"count": len(lines), "lines": lines[:LINES_SHOWN]}


def read_pairs(
    path: Path,
    tokenizer: Any,
    max_length: int,
    vocabulary: int,
    each: Callable[[int], None] | None = None,
) -> tuple[list[Pair], RowReport]:
    """Read a file of pairs in its order.

    `vocabulary` is the number of ids the model knows; `each` is called with the
    number of rows read so far. Raises TrainerError naming line and field.
    """
    pairs: list[Pair] = []
    report = RowReport()
    lines: dict[str, int] = {}
    for line, row in read_jsonl(path):
        report.read += 1
        try:
            pair = _pair_of(row, line, tokenizer, max_length, vocabulary, report)
            if pair is not None:
                _refuse_second(pair, lines)
        except _BadRow as problem:
            raise TrainerError(f"{path.name} line {line}: {problem}") from None
        if pair is not None:
            pairs.append(pair)
        if each is not None:
            each(report.read)
    report.used = len(pairs)
    return pairs, report


class _BadRow(Exception):
    pass


def _refuse_second(pair: Pair, lines: dict[str, int]) -> None:
    """Ids tell pairs apart in pairs_scored.jsonl; `lines` holds those seen so far."""
    first = lines.setdefault(pair.id, pair.line)
    if first != pair.line:
        raise _BadRow(
            f'"id" {pair.id!r} is already that of line {first}; give each pair its own.'
        )


def _pair_of(
    row: Any,
    line: int,
    tokenizer: Any,
    max_length: int,
    vocabulary: int,
    report: RowReport,
) -> Pair | None:
    if not isinstance(row, dict):
        raise _BadRow('must be an object {"prompt": …, "chosen": …, "rejected": …}.')
    weight = row.get("weight")
    weight = 1.0 if weight is None else weight
    if not is_number(weight) or weight < 0:
        raise _BadRow(f'"weight" must be a number of at least 0, not {weight!r}.')
    row_id = line if row.get("id") is None else row["id"]
    if type(row_id) not in (str, int):
        raise _BadRow(f'"id" must be a text or a whole number, not {row_id!r}.')
    row_id = str(row_id)
    ids = _given_ids(row, vocabulary)
    if ids is None:
        prompt, chosen, rejected, left_out = _tokenized(row, tokenizer)
        highest = max(prompt + chosen + rejected, default=0)
        if highest >= vocabulary:
            raise _BadRow(
                f"the tokenizer gives id {highest}, but the model knows {vocabulary}"
                " ids; they do not belong together."
            )
        if left_out:
            report.left_out_of_prompt.append(line)
    else:
        prompt, chosen, rejected = ids
    if len(prompt) >= max_length:
        _drop(report, "the prompt alone fills max_length", line)
        return None
    if weight == 0:
        _drop(report, "its weight is 0", line)
        return None
    room = max_length - len(prompt)
    for side, answer in (("chosen", chosen), ("rejected", rejected)):
        # Without a token before it, an answer's first token has no prediction.
        if len(answer) <= (0 if prompt else 1):
            _drop(report, f"{side} has no token to predict", line)
            return None
        if len(answer) > room:
            report.cut.setdefault(f"{side} cut to max_length", []).append(line)
    return Pair(row_id, line, prompt, chosen[:room], rejected[:room], float(weight))


def _drop(report: RowReport, why: str, line: int) -> None:
    report.dropped.setdefault(why, []).append(line)


def _given_ids(
    row: dict[str, Any], vocabulary: int
) -> tuple[list[int], list[int], list[int]] | None:
    given = [key for key in ID_KEYS if row.get(key) is not None]
    if not given:
        return None
    if len(given) < len(ID_KEYS):
        missing = next(key for key in ID_KEYS if key not in given)
        raise _BadRow(
            f'"{missing}" is missing; give all of {", ".join(ID_KEYS)} or none.'
        )
    for key in ID_KEYS:
        ids = row[key]
        listed = isinstance(ids, list) and all(type(i) is int for i in ids)
        if not listed or any(not 0 <= i < vocabulary for i in ids):
            raise _BadRow(
                f'"{key}" must be a list of token ids from 0 to {vocabulary - 1}.'
            )
    return row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]


def _tokenized(
    row: dict[str, Any], tokenizer: Any
) -> tuple[list[int], list[int], list[int], bool]:
    if "completion" in row and "label" in row:
        raise _BadRow("unpaired rows (KTO) are not in this version of the trainer.")
    for key in ("chosen", "rejected"):
        if key not in row:
            raise _BadRow(f'"{key}" is missing.')
    if row.get("prompt") is None:
        row = {**row, **_extract_prompt(row["chosen"], row["rejected"])}
    for key in ("prompt", "chosen", "rejected"):
        if not isinstance(row[key], str | list):
            raise _BadRow(f'"{key}" must be a text or a list of messages.')
    texts = [isinstance(row[key], str) for key in ("prompt", "chosen", "rejected")]
    if all(texts):
        prompt, chosen, rejected = _encode_strings(row, tokenizer)
    else:
        for key in ("prompt", "chosen", "rejected"):
            _check_messages(key, row[key], mixed=any(texts))
        prompt, chosen, rejected = _encode_messages(row, tokenizer)
    start = min(_common_prefix(prompt, chosen), _common_prefix(prompt, rejected))
    return prompt[:start], chosen[start:], rejected[start:], start < len(prompt)


def _check_messages(key: str, value: Any, mixed: bool) -> None:
    if mixed and isinstance(value, str):
        raise _BadRow(f'"{key}" is a text where the others are messages; use one form.')
    if not value and key != "prompt":
        raise _BadRow(f'"{key}" must be a text or a list of messages; it is empty.')
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _BadRow(f'"{key}" must hold messages {{"role": …, "content": …}}.')
        content = message.get("content")
        # A call of a tool may stand in its place; parts are the template's affair.
        if not isinstance(content, str | list) and not message.get("tool_calls"):
            raise _BadRow(
                f'"{key}" has a message whose "content" is no text: {_short(content)}.'
            )


def _encode_strings(
    row: dict[str, Any], tokenizer: Any
) -> tuple[list[int], list[int], list[int]]:
    end = tokenizer.eos_token or ""

    def encode(text: str) -> list[int]:
        return list(tokenizer(text=text)["input_ids"])

    def answer(text: str) -> list[int]:
        return encode(row["prompt"] + (text if text.endswith(end) else text + end))

    return encode(row["prompt"]), answer(row["chosen"]), answer(row["rejected"])


def _encode_messages(
    row: dict[str, Any], tokenizer: Any
) -> tuple[list[int], list[int], list[int]]:
    if not tokenizer.chat_template:
        raise _BadRow(
            "has messages, but the base model's tokenizer has no chat template."
        )
    options = _template_options(row)

    def render(messages: list[dict[str, Any]], **extra: Any) -> list[int]:
        try:
            encoded = tokenizer.apply_chat_template(
                messages, tokenize=True, return_dict=True, **(options | extra)
            )
        except Exception as error:  # a template may raise anything it likes
            raise _BadRow(f"the chat template refuses it: {error}") from error
        return list(encoded["input_ids"])

    prompt = row["prompt"]
    return (
        render(prompt, add_generation_prompt=True),
        render(prompt + row["chosen"]),
        render(prompt + row["rejected"]),
    )


def _template_options(row: dict[str, Any]) -> dict[str, Any]:
    """The row's `tools` and `chat_template_kwargs`, as the chat template takes them."""
    tools = row.get("tools")
    try:
        tools = json.loads(tools) if isinstance(tools, str) else tools
    except (ValueError, RecursionError):
        tools = ...
    if not isinstance(tools, list | None):
        raise _BadRow('"tools" must be a list, or its JSON text.')
    more = row.get("chat_template_kwargs") or {}
    if not isinstance(more, dict):
        raise _BadRow('"chat_template_kwargs" must be an object.')
    for name in RENDERING:
        if name in more:
            raise _BadRow(
                f'"chat_template_kwargs" must not hold "{name}": it is for the'
                " template's own variables."
            )
    return {"tools": tools, **more}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"


def _common_prefix(ids: list[int], others: list[int]) -> int:
    same = 0
    for left, right in zip(ids, others, strict=False):
        if left != right:
            break
        same += 1
    return same


def _extract_prompt(chosen: Any, rejected: Any) -> dict[str, Any]:
    """The common beginning as the prompt (TRL's extract_prompt)."""
    if type(chosen) is not type(rejected) or not isinstance(chosen, str | list):
        raise _BadRow('"chosen" and "rejected" must both be texts or both be messages.')
    shared = min(len(chosen), len(rejected))
    # Where one is the beginning of the other, its last turn or character stays its
    # answer: an answer is never empty.
    cut = max(shared - 1, 0)
    for index in range(shared):
        if chosen[index] != rejected[index]:
            # A space goes to the word after it.
            cut = index - 1 if index and chosen[index - 1] == " " else index
            break
    return {"prompt": chosen[:cut], "chosen": chosen[cut:], "rejected": rejected[cut:]}
