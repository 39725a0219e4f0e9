"""A pair as the rows it was read from, as they came.

By what pair_reading.py kept of them beside the messages.
"""

import json
from collections.abc import Callable
from typing import Any

from annotation.files import llamafactory
from annotation.files.faults import Messages, Row
from annotation.files.pair_writing import LeftOut


def restored(
    format: str, kept: str, prompt: Messages, chosen: Messages, rejected: Messages
) -> list[Row]:
    """The rows that a pair was read from (KTO: two), as they were."""
    about = json.loads(kept)
    if "row" in about:
        return [about["row"]]
    if format == "kto":
        answers = zip(about["rows"], (chosen, rejected), strict=True)
        return [restored_half(prompt, answer, half) for half, answer in answers]
    return [RESTORERS[format](prompt, chosen, rejected, about)]


def is_whole(kept: str) -> bool:
    """Whether rows are kept as they came, because their parts don't say all of them."""
    about = json.loads(kept)
    return "row" in about or any("row" in half for half in about.get("rows", ()))


def is_same(one: Row, other: Row) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _written(messages: Messages, how: str) -> Any:
    if how == "text":
        return messages[-1]["content"]
    return messages[0] if how == "message" else messages


def restored_half(prompt: Messages, completion: Messages, kept: Row) -> Row:
    """The row of one labelled answer, as it was."""
    if "row" in kept:
        return kept["row"]
    asked, answered = kept["how"]
    return {
        "prompt": _written(prompt, asked),
        "completion": _written(completion, answered),
        **kept["rest"],
    }


def _restored_trl(
    prompt: Messages, chosen: Messages, rejected: Messages, kept: Row
) -> Row:
    asked, *answered = kept["how"]
    before = {"prompt": _written(prompt, asked)} if asked else {}
    inside = [] if asked else prompt
    answers = {
        name: _written([*inside, *answer], how)
        for name, answer, how in zip(
            ("chosen", "rejected"), (chosen, rejected), answered, strict=True
        )
    }
    return {**before, **answers, **kept["rest"]}


def _restored_openai(
    prompt: Messages, chosen: Messages, rejected: Messages, kept: Row
) -> Row:
    return {
        "input": {"messages": prompt, **kept["input"]},
        "preferred_output": chosen,
        "non_preferred_output": rejected,
        **kept["rest"],
    }


def _restored_llamafactory(
    prompt: Messages, chosen: Messages, rejected: Messages, kept: Row
) -> Row:
    system = {}
    if kept["system"] and prompt[0]["role"] == "system":
        system = {"system": prompt[0]["content"]}
        prompt = prompt[1:]
    try:
        row = {**llamafactory.row_of(prompt, chosen, rejected), **system}
    except LeftOut:
        return {}
    if kept["alpaca"]:
        spoken = row.pop("conversations")
        row = {"instruction": spoken[-1]["value"], **row}
        row |= {"chosen": chosen[0]["content"], "rejected": rejected[0]["content"]}
    return {**row, **kept["rest"]}


RESTORERS: dict[str, Callable[[Messages, Messages, Messages, Row], Row]] = {
    "trl": _restored_trl,
    "openai": _restored_openai,
    "llamafactory": _restored_llamafactory,
}
