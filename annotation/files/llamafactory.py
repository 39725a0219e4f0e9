"""LLaMA-Factory's rows, both ways: sharegpt (conversations) and alpaca (instruction).

As its data/README.md and its demo files have them, and as its converter
(src/llamafactory/data/converter.py) takes them. Which format a row is and what is kept
of it is for pair_reading.py to say.
"""

from typing import Any

from django.utils.translation import gettext as _

from annotation.files import messages as chats
from annotation.files.faults import BadRow, Messages, Row
from annotation.files.messages import turn
from annotation.files.pair_writing import LeftOut, refuse_tools

_FROM = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
    "function_call": "assistant",
}
_TO = {"user": "human", "assistant": "gpt", "system": "system"}
SPOKEN = ("conversations", "messages")
"""Where its files have the chat; `messages` in its demos with `role` and `content`."""


def prompt_of(row: Row) -> Messages:
    """What a pair's row asks. Raises BadRow."""
    return _alpaca_prompt(row) if is_alpaca(row) else _spoken(row)


def answer_of(row: Row, name: str) -> Messages:
    """`chosen` or `rejected` of a pair's row. Raises BadRow."""
    value = row[name]
    if isinstance(value, str):
        return turn("assistant", value)
    return [_sharegpt(name, value)]


def labelled_of(row: Row) -> tuple[Messages, Messages]:
    """(prompt, completion) of a row that holds both in one. Raises BadRow."""
    if not is_spoken(row):
        return _alpaca_prompt(row), turn("assistant", _text(row, "output"))
    *prompt, completion = _spoken(row)
    if not prompt:
        raise BadRow(_("“conversations” must be a question and its answer"))
    return prompt, [completion]


def is_spoken(row: Row) -> bool:
    return any(row.get(name) is not None for name in SPOKEN)


def is_alpaca(row: Row) -> bool:
    return row.get("instruction") is not None


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise BadRow(_("“%(name)s” must be a text") % {"name": name})
    return value or ""


def _alpaca_prompt(row: Row) -> Messages:
    turns = turn("system", row["system"]) if _text(row, "system") else []
    history = row.get("history") or []
    if not isinstance(history, list) or not all(map(_is_exchange, history)):
        raise BadRow(_("“history” must be a list of [question, answer]"))
    for question, answer in history:
        turns += [*turn("user", question), *turn("assistant", answer)]
    parts = (_text(row, "instruction"), _text(row, "input"))
    return [*turns, *turn("user", "\n".join(part for part in parts if part))]


def _is_exchange(value: Any) -> bool:
    is_two = isinstance(value, list) and len(value) == 2
    return is_two and all(isinstance(text, str) for text in value)


def _spoken(row: Row) -> Messages:
    name = next(name for name in SPOKEN if row.get(name) is not None)
    given = row[name]
    if not isinstance(given, list) or not given:
        raise BadRow(_("“%(name)s” must be a list of messages") % {"name": name})
    spoken = [_sharegpt(f"{name}[{i}]", one) for i, one in enumerate(given)]
    # A system message before the others counts, then; the column does not.
    if _text(row, "system") and spoken[0]["role"] != "system":
        return [*turn("system", row["system"]), *spoken]
    return spoken


def _sharegpt(place: str, one: Any) -> dict[str, Any]:
    if isinstance(one, dict) and "role" in one:
        return chats.checked(place, [one])[0]
    speaker = one.get("from") if isinstance(one, dict) else None
    if not isinstance(speaker, str) or speaker not in _FROM:
        raise BadRow(
            _("%(place)s needs “from” (%(known)s) and “value”")
            % {"place": place, "known": ", ".join(_FROM)}
        )
    if not isinstance(one.get("value"), str):
        raise BadRow(_("%(place)s.value must be a text") % {"place": place})
    return {"role": _FROM[speaker], "content": one["value"]}


def row_of(prompt: Messages, chosen: Messages, rejected: Messages) -> Row:
    """Sharegpt with `ranking`; the system prompt is the first message, as in its demos:
    a column of its own must be in every row or none. Raises LeftOut.

    What doesn't alternate it would skip with a warning.
    """
    refuse_tools(prompt, chosen, rejected)
    spoken = prompt[1:] if prompt[0]["role"] == "system" else prompt
    roles = [message["role"] for message in spoken]
    if len(roles) % 2 == 0 or roles != ["user", "assistant"] * (len(roles) // 2) + [
        "user"
    ]:
        raise LeftOut("its turns are not the user's and the assistant's by turns")

    def say(message: dict[str, Any]) -> Row:
        return {"from": _TO[message["role"]], "value": message["content"]}

    return {
        "conversations": [say(message) for message in prompt],
        "chosen": say(chosen[0]),
        "rejected": say(rejected[0]),
    }
