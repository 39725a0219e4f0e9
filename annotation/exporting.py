"""Pairs as training data: TRL's conversational form and OpenAI's. Rows, not files.

The prompt is the one the policy answered, its project's system prompt included.
Which pairs go out is the caller's choice (queries.sound_pairs).
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from django.db.models import QuerySet

from annotation.models import Completion, PreferencePair

Row = dict[str, Any]
Messages = list[dict[str, Any]]

_UNUSED = [
    f"{side}__{name}"
    for side in ("chosen", "rejected")
    for name in ("prompt_token_ids", "token_ids", "logprobs", "html")
]


def rows(pairs: Iterable[PreferencePair], format: str = "trl") -> Iterator[Row]:
    """One dict a pair, in the order of their ids. `format` is one of FORMATS."""
    to_row = _ROWS[format]
    if isinstance(pairs, QuerySet):
        pairs = (
            pairs.select_related(
                "prompt", "chosen__edited_from", "rejected__edited_from"
            )
            .defer(*_UNUSED)
            .order_by("pk")
            .iterator(chunk_size=500)
        )
    for pair in pairs:
        yield to_row(pair)


def jsonl(pairs: Iterable[PreferencePair], format: str = "trl") -> Iterator[str]:
    """The same as lines of JSON, each with its newline."""
    for row in rows(pairs, format):
        yield json.dumps(row, ensure_ascii=False) + "\n"


def prompt_messages(pair: PreferencePair) -> Messages:
    """What was asked: the prompt, and before it the system prompt used in sampling."""
    messages: Messages = pair.prompt.messages
    if messages[0]["role"] == "system":
        return messages
    for completion in (pair.chosen, pair.rejected):
        sampled = completion.edited_from or completion
        system_prompt = sampled.sampling.get("system_prompt")
        if system_prompt:
            return [{"role": "system", "content": system_prompt}, *messages]
    return messages


def answer_messages(completion: Completion) -> Messages:
    """One assistant message, or what an import brought."""
    if completion.messages is not None:
        messages: Messages = completion.messages
        return messages
    return [{"role": "assistant", "content": completion.text}]


def _trl(pair: PreferencePair) -> Row:
    row: Row = {
        "id": str(pair.pk),
        "prompt": prompt_messages(pair),
        "chosen": answer_messages(pair.chosen),
        "rejected": answer_messages(pair.rejected),
    }
    if pair.weight != 1:
        row["weight"] = pair.weight
    return row


def _openai(pair: PreferencePair) -> Row:
    return {
        "input": {"messages": prompt_messages(pair)},
        "preferred_output": answer_messages(pair.chosen),
        "non_preferred_output": answer_messages(pair.rejected),
    }


_ROWS: dict[str, Callable[[PreferencePair], Row]] = {"trl": _trl, "openai": _openai}

FORMATS = frozenset(_ROWS)
