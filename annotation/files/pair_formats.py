"""The formats of pairs (design §5.4): told apart by fields, read, and written.

| format | a row |
|---|---|
| trl | prompt, chosen, rejected: texts or messages; without prompt, what both begin with |
| openai | input.messages, preferred_output, non_preferred_output (Azure, Together alike) |
| together | the same, held to Together's rules: one assistant message, no tools |
| llamafactory | conversations (sharegpt) or instruction (alpaca), chosen, rejected |
| kto | prompt, completion, label: half a pair, see pairing.py |

What is read is kept so that writing the same format gives the same row again: what the
messages don't hold is kept beside them, and where even that would not give the row
back, the row itself is.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

from annotation import texts
from annotation.files import messages as chats
from annotation.files import tables
from annotation.files.faults import BadRow, Messages, Row, shown


@dataclass(frozen=True)
class PairRow:
    """A pair as read. `kept` is JSON for `restored`, in the same `format`."""

    prompt: Messages
    chosen: Messages
    rejected: Messages
    format: str
    kept: str
    weight: float = 1.0

    @property
    def sha256(self) -> str:
        return content_sha256(self.prompt, self.chosen, self.rejected)


@dataclass(frozen=True)
class Labelled:
    """An answer that was found good or bad, alone."""

    prompt: Messages
    completion: Messages
    label: bool
    row: Row
    weight: float = 1.0


def content_sha256(prompt: Messages, chosen: Messages, rejected: Messages) -> str:
    """What makes two pairs the same pair, whatever format or id they came with."""
    return texts.sha256_of([prompt, chosen, rejected])


# --- Reading -----------------------------------------------------------------------
def told_apart(row: Row) -> str:
    """The format of a row, by its fields; empty where it is no pair."""
    if "original" in row and isinstance(row["original"], str) and row["original"]:
        return "original"
    if "preferred_output" in row or "non_preferred_output" in row:
        return "openai"
    if "kto_tag" in row or ("completion" in row and "label" in row):
        return "kto"
    if "chosen" in row and "rejected" in row:
        if "conversations" in row or "instruction" in row:
            return "llamafactory"
        return "trl"
    return ""


def is_pair(row: Row) -> bool:
    return bool(told_apart(row)) or "chosen" in row or "rejected" in row


def read(row: Row) -> PairRow | Labelled:
    """The pair (or half of one) that a row means. Raises BadRow naming field and fix."""
    format = told_apart(row)
    if format == "original":
        # A table of ours: the columns say it simply, this one says it whole.
        return read(_parsed_original(row["original"]))
    if not format:
        missing = [name for name in ("chosen", "rejected") if name not in row]
        raise BadRow(
            _(
                "is no pair: “%(missing)s” is missing. Fields here: %(names)s; name which"
                " column is which, or write “prompt”, “chosen”, “rejected”"
            )
            % {"missing": missing[0], "names": _names(row)}
        )
    chats.check_storable(row)
    return _READERS[format](row)


def _names(row: Row) -> str:
    return shown(", ".join(row))[:120] or "—"


def _parsed_original(text: str) -> Row:
    try:
        row = tables.parsed(text)
    except BadRow:
        row = {}
    if told_apart(row) in ("", "original"):
        raise BadRow(_("“original” is not a pair written as JSON; empty the column"))
    return row


def _pair(
    row: Row,
    format: str,
    prompt: Messages,
    chosen: Messages,
    rejected: Messages,
    kept: Row,
) -> PairRow:
    """Keeps what gives the row back: `kept` if that does, else the row itself."""
    weight = _weight(row)
    same = _as_json(_RESTORERS[format](prompt, chosen, rejected, kept))
    kept = kept if same == _as_json(row) else {"row": row}
    return PairRow(
        chats.asked("prompt", prompt),
        chats.answered("chosen", chosen),
        chats.answered("rejected", rejected),
        format,
        json.dumps(kept, ensure_ascii=False),
        weight,
    )


def _as_json(row: Row) -> str:
    return json.dumps(row, sort_keys=True)


def _rest(row: Row, *known: str) -> Row:
    return {name: value for name, value in row.items() if name not in known}


def _weight(row: Row) -> float:
    value = row.get("weight")
    if value is None or value == "":
        return 1.0
    try:
        weight = float(value) if isinstance(value, int | float | str) else 0.0
    except (ValueError, OverflowError):
        weight = 0.0
    if isinstance(value, bool) or not 0 < weight < float("inf"):
        raise BadRow(
            _("“weight” is %(value)s; give a number above 0, or leave it out")
            % {"value": shown(str(value))[:40]}
        )
    return weight


def _turn(role: str, text: str) -> Messages:
    return [{"role": role, "content": text}]


def _chat(row: Row, name: str, role: str) -> tuple[Messages, str]:
    """The messages of a field and how they were written: text, message or messages."""
    value = row.get(name)
    if isinstance(value, str):
        return _turn(role, value), "text"
    if isinstance(value, dict):
        if isinstance(value.get("messages"), list):  # Fireworks'
            return chats.checked(f"{name}.messages", value["messages"]), "other"
        return chats.checked(name, [value]), "message"
    return chats.checked(name, value), "messages"


def _written(messages: Messages, how: str) -> Any:
    if how == "text":
        return messages[-1]["content"]
    return messages[0] if how == "message" else messages


def _trl(row: Row) -> PairRow:
    chosen, chosen_how = _chat(row, "chosen", "assistant")
    rejected, rejected_how = _chat(row, "rejected", "assistant")
    if row.get("prompt") in (None, ""):
        return _implicit(row, chosen, rejected, (chosen_how, rejected_how))
    prompt, prompt_how = _chat(row, "prompt", "user")
    system = row.get("system")
    if prompt_how == "text" and isinstance(system, str) and system:
        prompt = [*_turn("system", system), *prompt]
    # Answers that bring their prompt with them, as UltraFeedback's do.
    inside = {
        len(answer) - 1 - _from_the_end(answer, "user")
        for answer in (chosen, rejected)
        if any(message["role"] == "user" for message in answer)
    }
    if inside:
        cut = inside.pop() + 1
        if inside or chosen[:cut] != rejected[:cut]:
            raise BadRow(
                _(
                    "“chosen” and “rejected” hold different questions; leave only answers"
                )
            )
        told = chosen[:cut]
        if not _ends_alike(told, prompt):
            raise BadRow(
                _("“chosen” asks something else than “prompt”; leave only the answer")
            )
        prompt = told if len(told) >= len(prompt) else prompt
        chosen, rejected = chosen[cut:], rejected[cut:]
        if not chosen or not rejected:
            raise BadRow(_("“chosen” or “rejected” has no answer after the question"))
    how = [prompt_how, chosen_how, rejected_how]
    kept = {"how": how, "rest": _rest(row, "prompt", "chosen", "rejected")}
    return _pair(row, "trl", prompt, chosen, rejected, kept)


def _from_the_end(messages: Messages, role: str) -> int:
    return [message["role"] for message in reversed(messages)].index(role)


def _ends_alike(told: Messages, prompt: Messages) -> bool:
    """Whether the longer of the two is the shorter with something before it."""
    shorter, longer = sorted((told, prompt), key=len)
    return longer[len(longer) - len(shorter) :] == shorter


def _implicit(
    row: Row, chosen: Messages, rejected: Messages, how: tuple[str, str]
) -> PairRow:
    """Without a prompt: what both answers begin with is what was asked, as TRL has it."""
    if how == ("text", "text"):
        chosen, rejected = (_transcript(row[name]) for name in ("chosen", "rejected"))
    most = min(len(chosen), len(rejected)) - 1
    cut = 0
    while cut < most and chosen[cut] == rejected[cut]:
        cut += 1
    while cut and chosen[cut - 1]["role"] == "assistant":
        cut -= 1
    if not cut:
        raise BadRow(
            _("has no “prompt”, and “chosen” and “rejected” begin differently; add one")
        )
    kept = {"how": [None, *how], "rest": _rest(row, "chosen", "rejected")}
    return _pair(row, "trl", chosen[:cut], chosen[cut:], rejected[cut:], kept)


_SPEAKERS = {"Human": "user", "Assistant": "assistant", "System": "system"}


def _transcript(text: str) -> Messages:
    """Turns of “Human: … Assistant: …”, as Anthropic's HH has them. Raises BadRow."""
    turns: Messages = []
    for piece in ("\n\n" + text.lstrip("\n")).split("\n\n"):
        speaker, colon, said = piece.partition(":")
        if colon and speaker in _SPEAKERS:
            turns += _turn(_SPEAKERS[speaker], said.removeprefix(" "))
        elif turns:
            turns[-1]["content"] += "\n\n" + piece
        elif piece.strip():
            break
    if len(turns) < 2:
        raise BadRow(
            _(
                "has no “prompt”, and its answers are no transcript"
                " (“Human: … Assistant: …”); add a prompt"
            )
        )
    return turns


def _openai(row: Row) -> PairRow:
    given = row.get("input")
    if not isinstance(given, dict) or "messages" not in given:
        raise BadRow(_("“input” must be an object with “messages”"))
    prompt = chats.checked("input.messages", given["messages"])
    outputs = []
    for name in ("preferred_output", "non_preferred_output"):
        if name not in row:
            raise BadRow(_("has no “%(name)s”; a pair needs both") % {"name": name})
        outputs.append(chats.checked(name, row[name]))
    kept = {
        "input": _rest(given, "messages"),
        "rest": _rest(row, "input", "preferred_output", "non_preferred_output"),
    }
    return _pair(row, "openai", prompt, *outputs, kept)


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


def _llamafactory(row: Row) -> PairRow:
    prompt = _alpaca_prompt(row) if "instruction" in row else _sharegpt_prompt(row)
    answers = [_llamafactory_answer(row, name) for name in ("chosen", "rejected")]
    known = ("conversations", "chosen", "rejected", "system", "instruction")
    kept = {
        "alpaca": "instruction" in row,
        "system": "system" in row,
        "rest": _rest(row, *known),
    }
    return _pair(row, "llamafactory", prompt, *answers, kept)


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise BadRow(_("“%(name)s” must be a text") % {"name": name})
    return value or ""


def _alpaca_prompt(row: Row) -> Messages:
    turns = _turn("system", row["system"]) if _text(row, "system") else []
    for exchange in row.get("history") or []:
        if not isinstance(exchange, list) or not all(
            isinstance(text, str) for text in exchange
        ):
            raise BadRow(_("“history” must be a list of [question, answer]"))
        for role, text in zip(("user", "assistant"), exchange, strict=False):
            turns += _turn(role, text)
    parts = (_text(row, "instruction"), _text(row, "input"))
    return [*turns, *_turn("user", "\n".join(part for part in parts if part))]


def _sharegpt_prompt(row: Row) -> Messages:
    turns = _turn("system", row["system"]) if _text(row, "system") else []
    spoken = row["conversations"]
    if not isinstance(spoken, list) or not spoken:
        raise BadRow(_("“conversations” must be a list of messages"))
    return turns + [
        _sharegpt(f"conversations[{i}]", one) for i, one in enumerate(spoken)
    ]


def _llamafactory_answer(row: Row, name: str) -> Messages:
    value = row[name]
    if isinstance(value, str):
        return _turn("assistant", value)
    return [_sharegpt(name, value)]


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


def _kto(row: Row) -> Labelled:
    label = row.get("label", row.get("kto_tag"))
    known = {"true": True, "1": True, "false": False, "0": False}
    label = known.get(str(label).strip().lower())
    if label is None:
        raise BadRow(_("“label” must be true (a good answer) or false (a bad one)"))
    if "conversations" in row:
        prompt = _sharegpt_prompt(row)
        prompt, completion = prompt[:-1], prompt[-1:]
        if not prompt:
            raise BadRow(_("“conversations” must be a question and its answer"))
    elif "instruction" in row:
        prompt, completion = (
            _alpaca_prompt(row),
            _turn("assistant", _text(row, "output")),
        )
    else:
        if row.get("prompt") in (None, ""):
            raise BadRow(_("has no “prompt”; add what was asked"))
        prompt, _how = _chat(row, "prompt", "user")
        completion, _how = _chat(row, "completion", "assistant")
    return Labelled(
        chats.asked("prompt", prompt),
        chats.answered("completion", completion),
        label,
        row,
        _weight(row),
    )


def joined(good: Labelled, bad: Labelled) -> PairRow:
    """Two labelled answers to one prompt as a pair."""
    kept = {"rows": [_kto_kept(good), _kto_kept(bad)]}
    return PairRow(
        good.prompt,
        good.completion,
        bad.completion,
        "kto",
        json.dumps(kept, ensure_ascii=False),
        (good.weight + bad.weight) / 2,
    )


def _kto_kept(half: Labelled) -> Row:
    if "completion" not in half.row:
        return {"row": half.row}
    how = [
        "text" if isinstance(half.row[name], str) else "messages"
        for name in ("prompt", "completion")
    ]
    kept = {"how": how, "rest": _rest(half.row, "prompt", "completion")}
    same = _restored_half(half.prompt, half.completion, kept)
    return kept if _as_json(same) == _as_json(half.row) else {"row": half.row}


_READERS: dict[str, Callable[[Row], PairRow | Labelled]] = {
    "trl": _trl,
    "openai": _openai,
    "llamafactory": _llamafactory,
    "kto": _kto,
}


# --- Giving back -------------------------------------------------------------------
def restored(
    format: str, kept: str, prompt: Messages, chosen: Messages, rejected: Messages
) -> list[Row]:
    """The rows that a pair was read from (KTO: two), as they were."""
    about = json.loads(kept)
    if "row" in about:
        return [about["row"]]
    if format == "kto":
        answers = zip(about["rows"], (chosen, rejected), strict=True)
        return [_restored_half(prompt, answer, half) for half, answer in answers]
    return [_RESTORERS[format](prompt, chosen, rejected, about)]


def is_whole(kept: str) -> bool:
    """Whether rows are kept as they came, because their parts don't say all of them."""
    about = json.loads(kept)
    return "row" in about or any("row" in half for half in about.get("rows", ()))


def _restored_half(prompt: Messages, completion: Messages, kept: Row) -> Row:
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
    try:
        row = llamafactory_row(prompt, chosen, rejected)
    except LeftOut:
        return {}
    if not kept["system"]:
        row.pop("system", None)
    if kept["alpaca"]:
        spoken = row.pop("conversations")
        row = {"instruction": spoken[-1]["value"], **row}
        row |= {"chosen": chosen[0]["content"], "rejected": rejected[0]["content"]}
    return {**row, **kept["rest"]}


_RESTORERS: dict[str, Callable[[Messages, Messages, Messages, Row], Row]] = {
    "trl": _restored_trl,
    "openai": _restored_openai,
    "llamafactory": _restored_llamafactory,
}


# --- Writing -----------------------------------------------------------------------
class LeftOut(Exception):
    """The format can't say this pair; its text says why, in English, as cards do."""


def trl_row(prompt: Messages, chosen: Messages, rejected: Messages) -> Row:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def openai_row(prompt: Messages, chosen: Messages, rejected: Messages) -> Row:
    return {
        "input": {"messages": prompt},
        "preferred_output": chosen,
        "non_preferred_output": rejected,
    }


def together_row(prompt: Messages, chosen: Messages, rejected: Messages) -> Row:
    """As Together takes it: system, user, assistant; one message an answer."""
    _refuse_tools(prompt, chosen, rejected)
    return openai_row(prompt, chosen, rejected)


_TO = {"user": "human", "assistant": "gpt", "tool": "observation", "system": "system"}


def llamafactory_row(prompt: Messages, chosen: Messages, rejected: Messages) -> Row:
    """Sharegpt with `ranking`: the system prompt in a column of its own."""
    _refuse_tools(prompt, chosen, rejected)
    system, spoken = "", prompt
    if prompt[0]["role"] == "system":
        system, spoken = prompt[0]["content"], prompt[1:]

    def say(message: dict[str, Any]) -> Row:
        return {"from": _TO[message["role"]], "value": message["content"]}

    row: Row = {
        "conversations": [say(message) for message in spoken],
        "chosen": say(chosen[0]),
        "rejected": say(rejected[0]),
    }
    return {**row, "system": system} if system else row


def _refuse_tools(prompt: Messages, chosen: Messages, rejected: Messages) -> None:
    if len(chosen) != 1 or len(rejected) != 1:
        raise LeftOut("an answer is more than one message")
    every = [*prompt, *chosen, *rejected]
    roles = {message["role"] for message in every}
    if roles - {"system", "user", "assistant"} or not chats.is_plain(every):
        raise LeftOut("it has tool calls, or messages that are more than a text")
