"""A row of pairs.jsonl turned into token ids, by TRL's rules.

A row is a conversation (lists of messages) or plain strings:

- no "prompt": the longest common beginning of chosen and rejected is the prompt;
- messages: the tokenizer's chat template renders the prompt with a generation prompt,
  and prompt + answer as a whole; nothing is appended, so what the template prints
  after an answer counts as part of it;
- strings: the end-of-text token's text is appended to each answer that lacks it;
- the answer starts where its rendering leaves the rendered prompt (the earlier of the
  two sides), so that no token depends on the cut between prompt and answer;
- `prompt_ids`, `chosen_ids`, `rejected_ids`, if given, are used as they are.

Leaves out images, and what is cut or dropped; see `data.py`.
"""

import json
from collections.abc import Sequence
from typing import Any

PAIR = ("chosen", "rejected")
"""The answers of a pair."""

RENDERING = (
    *("conversation", "tokenize", "return_dict", "return_tensors", "tokenizer_kwargs"),
    *("add_generation_prompt", "continue_final_message", "padding", "truncation"),
    *("max_length", "return_assistant_tokens_mask"),
)
"""What `apply_chat_template` takes besides a template's variables; ours to set."""


class BadRow(Exception):
    """What is wrong with a row, in one sentence."""


def required(row: dict[str, Any], key: str) -> Any:
    if key not in row:
        raise BadRow(f'"{key}" is missing.')
    return row[key]


def given_ids(
    row: dict[str, Any], vocabulary: int, sides: Sequence[str]
) -> tuple[list[int], list[list[int]]] | None:
    keys = ["prompt_ids", *(f"{side}_ids" for side in sides)]
    given = [key for key in keys if row.get(key) is not None]
    if not given:
        return None
    if len(given) < len(keys):
        missing = next(key for key in keys if key not in given)
        raise BadRow(f'"{missing}" is missing; give all of {", ".join(keys)} or none.')
    for key in keys:
        ids = row[key]
        listed = isinstance(ids, list) and all(type(i) is int for i in ids)
        if not listed or any(not 0 <= i < vocabulary for i in ids):
            raise BadRow(
                f'"{key}" must be a list of token ids from 0 to {vocabulary - 1}.'
            )
    return row["prompt_ids"], [row[key] for key in keys[1:]]


def tokenized(
    row: dict[str, Any], tokenizer: Any, sides: Sequence[str]
) -> tuple[list[int], list[list[int]], bool]:
    """(prompt, answers, whether an end of the prompt was left out)."""
    for side in sides:
        required(row, side)
    if row.get("prompt") is None:
        if sides != PAIR:
            raise BadRow('"prompt" is missing.')
        row = {**row, **extract_prompt(row["chosen"], row["rejected"])}
    keys = ("prompt", *sides)
    for key in keys:
        if not isinstance(row[key], str | list):
            raise BadRow(f'"{key}" must be a text or a list of messages.')
    texts = [isinstance(row[key], str) for key in keys]
    if all(texts):
        prompt, answers = _encode_strings(row, tokenizer, sides)
    else:
        for key in keys:
            _check_messages(key, row[key], mixed=any(texts))
        prompt, answers = _encode_messages(row, tokenizer, sides)
    start = min(common_length(prompt, answer) for answer in answers)
    return prompt[:start], [answer[start:] for answer in answers], start < len(prompt)


def _check_messages(key: str, value: Any, mixed: bool) -> None:
    if mixed and isinstance(value, str):
        way_out = "use one form"
        if key == "prompt":  # of data sets that give it beside whole conversations
            way_out += ", or leave it out if the answers begin with it"
        raise BadRow(f'"{key}" is a text where the others are messages; {way_out}.')
    if not value and key != "prompt":
        raise BadRow(f'"{key}" must be a text or a list of messages; it is empty.')
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRow(f'"{key}" must hold messages {{"role": …, "content": …}}.')
        content = message.get("content")
        # A call of a tool may stand in its place; parts are the template's affair.
        if not isinstance(content, str | list) and not message.get("tool_calls"):
            raise BadRow(
                f'"{key}" has a message whose "content" is no text: {_short(content)}.'
            )


def _encode_strings(
    row: dict[str, Any], tokenizer: Any, sides: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    end = tokenizer.eos_token or ""

    def encode(text: str) -> list[int]:
        return list(tokenizer(text=text)["input_ids"])

    def answer(text: str) -> list[int]:
        return encode(row["prompt"] + (text if text.endswith(end) else text + end))

    return encode(row["prompt"]), [answer(row[side]) for side in sides]


def _encode_messages(
    row: dict[str, Any], tokenizer: Any, sides: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    if not tokenizer.chat_template:
        raise BadRow(
            "has messages, but the base model's tokenizer has no chat template."
        )
    options = _template_options(row)

    def render(messages: list[dict[str, Any]], **extra: Any) -> list[int]:
        try:
            encoded = tokenizer.apply_chat_template(
                messages, tokenize=True, return_dict=True, **(options | extra)
            )
        except Exception as error:  # a template may raise anything it likes
            raise BadRow(f"the chat template refuses it: {error}") from error
        return list(encoded["input_ids"])

    prompt = row["prompt"]
    answers = [render(prompt + row[side]) for side in sides]
    return render(prompt, add_generation_prompt=True), answers


def _template_options(row: dict[str, Any]) -> dict[str, Any]:
    """The row's `tools` and `chat_template_kwargs`, as the chat template takes them."""
    tools = row.get("tools")
    try:
        tools = json.loads(tools) if isinstance(tools, str) else tools
    except (ValueError, RecursionError):
        tools = ...
    if not isinstance(tools, list | None):
        raise BadRow('"tools" must be a list, or its JSON text.')
    more = row.get("chat_template_kwargs") or {}
    if not isinstance(more, dict):
        raise BadRow('"chat_template_kwargs" must be an object.')
    for name in RENDERING:
        if name in more:
            raise BadRow(
                f'"chat_template_kwargs" must not hold "{name}": it is for the'
                " template's own variables."
            )
    return {"tools": tools, **more}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"


def common_length(first: Sequence[int], second: Sequence[int], start: int = 0) -> int:
    """Tokens that both begin with, known to be alike until `start`."""
    end = min(len(first), len(second))
    if first[start:end] == second[start:end]:
        return end
    return next(at for at in range(start, end) if first[at] != second[at])


def extract_prompt(chosen: Any, rejected: Any) -> dict[str, Any]:
    """The common beginning as the prompt (TRL's extract_prompt)."""
    if type(chosen) is not type(rejected) or not isinstance(chosen, str | list):
        raise BadRow('"chosen" and "rejected" must both be texts or both be messages.')
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
