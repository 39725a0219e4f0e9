"""Rows of files as pairs (design §5.4): the format told apart by its fields, then read.

| format | a row |
|---|---|
| trl | prompt, chosen, rejected: texts or messages; without prompt, what both begin with |
| openai | input.messages, preferred_output, non_preferred_output (Azure, Together alike) |
| llamafactory | conversations (sharegpt) or instruction (alpaca), chosen, rejected; its demos' messages, too |
| kto | prompt, completion, label: half a pair, see pairing.py; or LLaMA-Factory's conversations (messages), kto_tag (label) |

What the messages don't hold is kept beside them, so that pair_restoring.py gives the same
row again; where even that would not, the row itself is kept.
"""

import json
from collections.abc import Callable

from django.utils.translation import gettext as _

from annotation.files import llamafactory, tables
from annotation.files import messages as chats
from annotation.files.columns import PAIRS
from annotation.files.faults import (
    BadRow,
    Messages,
    Row,
    refuse_python,
    refuse_wrapped,
    shown,
)
from annotation.files.messages import turn
from annotation.files.pair_restoring import (
    RESTORERS,
    is_same,
    restored,
    restored_half,
)
from annotation.files.pair_rows import Labelled, PairRow, content_sha256


def told_apart(row: Row) -> str:
    """The format of a row, by its fields that hold something; empty where it is no pair.

    A column that is empty in this row says nothing of it: tables have each column in
    every row.
    """
    given = _given(row)
    if given & {"preferred_output", "non_preferred_output"}:
        return "openai"
    is_labelled = "kto_tag" in given or ("label" in given and _is_answered(row))
    if is_labelled and not given >= _ANSWERS:
        return "kto"
    if not all(name in row for name in _ANSWERS) or not _has(row, *_ANSWERS):
        return ""
    if (
        "conversations" in given
        or _has(row, "instruction")
        and ("instruction" in given or "prompt" not in given)
    ):
        return "llamafactory"
    # A file of TRL's may carry `messages` besides: there the answers are lists.
    alone = "prompt" not in given and "messages" in given
    if alone and all(isinstance(row[name], dict) for name in _ANSWERS):
        return "llamafactory"
    return "trl"


_ANSWERS = {"chosen", "rejected"}


def _given(row: Row) -> set[str]:
    """The fields that hold something; an empty text is an empty cell of CSV."""
    return {name for name, value in row.items() if value is not None and value != ""}


def _has(row: Row, *names: str) -> bool:
    """Whether one of them isn't null; an answer may be an empty text."""
    return any(row.get(name) is not None for name in names)


def _is_answered(row: Row) -> bool:
    """Whether it holds an answer that a label may be of; chats that end with the user
    are prompts, whatever label they carry."""
    if _has(row, "completion"):
        return True
    spoken = row.get("conversations") or row.get("messages")
    last = spoken[-1] if isinstance(spoken, list) and spoken else None
    said_by = last.get("role", last.get("from")) if isinstance(last, dict) else None
    return said_by in ("assistant", "gpt")


def is_pair(row: Row) -> bool:
    """Whether it holds answers that were judged; a prompt's row may have their columns."""
    return told_apart(row) in ("openai", "kto") or bool(_given(row) & _ANSWERS)


def read(row: Row) -> PairRow | Labelled:
    """The pair (or half of one) that a row means. Raises BadRow naming field and fix."""
    if original := _original_of(row):
        return _as_it_came(_rest(row, "original"), original)
    spoken = () if row.get("prompt") else llamafactory.SPOKEN
    refuse_python(row, "prompt", "chosen", "rejected", "completion", *spoken)
    format = told_apart(row)
    if not format:
        refuse_wrapped(row)
        missing = [name for name in ("chosen", "rejected") if not _has(row, name)]
        raise BadRow(
            _(
                "is not a pair: “%(missing)s” is missing. Fields here: %(names)s; say which"
                " column is which, or write “prompt”, “chosen”, “rejected”"
            )
            % {"missing": missing[0], "names": _names(row)}
        )
    chats.check_storable(row)
    return _READERS[format](row)


def _names(row: Row) -> str:
    return shown(", ".join(row))[:120] or "—"


def _original_of(row: Row) -> PairRow | None:
    """In a table of ours, the pair as the row it came as: `original` says it whole. A
    column of that name in another's file, or a cell that was cut off, says nothing."""
    text = row.get("original")
    if not text or not isinstance(text, str) or not PAIRS.keys() <= row.keys():
        return None
    try:
        found = read(tables.parsed(text))
    except BadRow:
        return None
    return found if isinstance(found, PairRow) else None


def _as_it_came(row: Row, original: PairRow) -> PairRow | Labelled:
    """The pair as it came, with what was changed since in the columns beside it."""
    told = read(row)
    if not isinstance(told, PairRow):
        return told
    names = ("prompt", "chosen", "rejected")
    now = [
        _unless_the_same(getattr(original, name), getattr(told, name)) for name in names
    ]
    (row,) = restored(original.format, original.kept, *now)
    if told.weight != original.weight:
        row = {**row, "weight": told.weight}
    try:
        found = read(row)
    except BadRow:
        return told
    # A row that was kept whole still says what it said before.
    is_true = isinstance(found, PairRow) and found.sha256 == content_sha256(*now)
    return found if is_true else told


def _unless_the_same(original: Messages, told: Messages) -> Messages:
    """What a column tells, or the original's where that says no more: Parquet has roles
    and texts only."""
    simply = [
        {"role": message["role"], "content": chats.plain(message)}
        for message in original
    ]
    return original if told in (original, simply) else told


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
    back = RESTORERS[format](prompt, chosen, rejected, kept)
    kept = kept if is_same(back, row) else {"row": row}
    return PairRow(
        chats.asked("prompt", prompt),
        chats.answered("chosen", chosen),
        chats.answered("rejected", rejected),
        format,
        json.dumps(kept, ensure_ascii=False),
        weight,
        is_edit=PAIRS.keys() <= row.keys() and row["kind"] == "edited",
    )


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


def _chat(row: Row, name: str, role: str) -> tuple[Messages, str]:
    """The messages of a field and how they were written: text, message or messages."""
    value = row.get(name)
    if isinstance(value, str):
        return turn(role, value), "text"
    if isinstance(value, dict):
        if isinstance(value.get("messages"), list):  # Fireworks'
            return chats.checked(f"{name}.messages", value["messages"]), "other"
        return chats.checked(name, [value]), "message"
    return chats.checked(name, value), "messages"


def _asked(row: Row) -> tuple[Messages, str]:
    """The same of `prompt`: before a text the system prompt of a column of its own."""
    prompt, how = _chat(row, "prompt", "user")
    system = row.get("system")
    if how == "text" and isinstance(system, str) and system:
        prompt = [*turn("system", system), *prompt]
    return prompt, how


def _trl(row: Row) -> PairRow:
    chosen, chosen_how = _chat(row, "chosen", "assistant")
    rejected, rejected_how = _chat(row, "rejected", "assistant")
    if row.get("prompt") in (None, ""):
        return _implicit(row, chosen, rejected, (chosen_how, rejected_how))
    prompt, prompt_how = _asked(row)
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
                _("“chosen” asks something other than “prompt”; leave only the answer")
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
            turns += turn(_SPEAKERS[speaker], said.removeprefix(" "))
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
        if not _has(row, name):
            raise BadRow(_("has no “%(name)s”; a pair needs both") % {"name": name})
        outputs.append(chats.checked(name, row[name]))
    kept = {
        "input": _rest(given, "messages"),
        "rest": _rest(row, "input", "preferred_output", "non_preferred_output"),
    }
    return _pair(row, "openai", prompt, *outputs, kept)


def _llamafactory(row: Row) -> PairRow:
    prompt = llamafactory.prompt_of(row)
    answers = [llamafactory.answer_of(row, name) for name in ("chosen", "rejected")]
    # `messages` is left in the rest, so that such a row is kept whole.
    known = ("conversations", "chosen", "rejected", "system", "instruction")
    kept = {
        "alpaca": llamafactory.is_alpaca(row),
        "system": "system" in row,
        "rest": _rest(row, *known),
    }
    return _pair(row, "llamafactory", prompt, *answers, kept)


def _kto(row: Row) -> Labelled:
    label = row["label"] if _has(row, "label") else row.get("kto_tag")
    # As JSON, CSV and the floats of a table that has nulls write it.
    known = {"true": True, "1": True, "1.0": True}
    known |= {"false": False, "0": False, "0.0": False}
    label = known.get(str(label).strip().lower())
    if label is None:
        raise BadRow(_("“label” must be true (a good answer) or false (a bad one)"))
    kept: Row = {}
    if not _has(row, "completion") and (
        llamafactory.is_spoken(row) or llamafactory.is_alpaca(row)
    ):
        prompt, completion = llamafactory.labelled_of(row)
    else:
        completion, answered = _chat(row, "completion", "assistant")
        if row.get("prompt") in (None, ""):
            # The question stands before the answer, as in some chats of the hub's.
            if len(completion) < 2:
                raise BadRow(_("has no “prompt”; add what was asked"))
            prompt, completion = completion[:-1], completion[-1:]
            asked = ""
        else:
            prompt, asked = _asked(row)
        rest = _rest(row, "prompt", "completion")
        kept = {"how": [asked, answered], "rest": rest}
    if not kept or not is_same(restored_half(prompt, completion, kept), row):
        kept = {"row": row}
    return Labelled(
        chats.asked("prompt", prompt),
        chats.answered("completion", completion),
        label,
        kept,
        _weight(row),
        str(row.get("id") or ""),
    )


_READERS: dict[str, Callable[[Row], PairRow | Labelled]] = {
    "trl": _trl,
    "openai": _openai,
    "llamafactory": _llamafactory,
    "kto": _kto,
}
