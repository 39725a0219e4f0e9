"""Comparisons judged elsewhere, two answers and a word for the better one, as rows of pairs.

| what | a row |
|---|---|
| Label Studio, JSON | data, annotations: a row for each annotation that wasn't cancelled |
| Label Studio, JSON-MIN or CSV | the data's fields and `[{"selected": "left"}]` |
| Argilla | fields, responses; or its flat rows: the fields and NAME.responses |
| arenas and tables | two answers (response_a and response_b, answer1 and answer2, …) and `winner` |

`opened` takes a record apart into flat rows, a row for each person's word; `settled` writes
a flat row as pair_reading.py reads it: with `chosen` and `rejected`, or a tie as two labelled
answers. A winner is believed only where the row says which answer it means: read the
wrong way round, a file would teach the opposite. So a bare number counts where the answers'
columns are numbered so, and never of a scale that is known as one. Left out: rankings of
three and more answers, and marks given to one answer at a time.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from django.utils.translation import gettext as _

from annotation.files.faults import KNOWN, BadRow, Row, shown

Columns = tuple[str, str]
"""The names of the first answer's and the second answer's column."""

OURS = "answer_a", "answer_b"
WINNER = "winner"
"""What a column can be said to be on the import page."""

STEMS = (
    *("response", "answer", "conversation", "completion", "output"),
    *("generation", "candidate", "text"),
)
MARKS = ("a", "b"), ("1", "2"), ("0", "1"), ("left", "right"), ("first", "second")
SIDES = {mark: side for marks in MARKS for mark, side in zip(marks, "ab", strict=True)}
"""Which side a mark means; a digit only where the columns bear it."""
TIES = {"tie", "ties", "tied", "draw", "equal", "same", "bothgood", "tiebothgood"}
BOTH_BAD = {"bothbad", "tiebothbad", "neither"}

_WINNERS = {
    *(WINNER, "winnerid", "preferred", "preference", "preferredresponse", "choice"),
    *("better", "betterresponse", "betterresponseid", "betteranswer", "comparison"),
    *("pairwise", "selected", "vote", "ranking", "overallpreference"),
}
_SCALES = {"overallpreference"}
"""Of those, where a number is of a scale: HelpSteer3's 1 means its response2."""
_QUESTIONS = ("prompt", "question", "instruction", "query", "context", "messages")
_READ = {*KNOWN, "input", "non_preferred_output", "rejected", "label", "kto_tag"}
"""Names that would mean something else to pair_reading.py."""
_ANSWER = re.compile(f"({'|'.join(STEMS)})({'|'.join(SIDES)})")
_WORD = re.compile(
    f"(?:model|assistant|option|{'|'.join(STEMS)})?({'|'.join(SIDES)})"
    "(?:is(?:much|slightly|clearly|significantly)?better|wins?|won)?"
)
_SELECTED = re.compile(r'\s*\[?\s*\{\s*"selected"')
MAX_WORD = 200
"""Characters of a word for the winner; Label Studio's is JSON in a cell of CSV."""


def opened(row: Row) -> list[Row]:
    """A record as its flat rows, which keep its id; whatever is none as it is."""
    data, annotations = row.get("data"), row.get("annotations")
    known = {"id": row["id"]} if "id" in row else {}
    # A prompt or an answer beside them: columns that are only called so.
    is_record = not KNOWN & row.keys()
    if is_record and isinstance(data, dict) and isinstance(annotations, list):
        said = [_words_of(one) for one in annotations]
        return [{**words, **known, **data} for words in said if words] or [known | data]
    fields, responses = row.get("fields"), row.get("responses")
    if is_record and isinstance(fields, dict) and isinstance(responses, dict):
        return _by_person(known | fields, _nested(responses))
    if any(name.endswith((".responses", ".suggestion")) for name in row):
        own = {n: v for n, v in row.items() if not _is_about_a_question(n)}
        return _by_person(own, _flat(row))
    return [row]


def is_compared(row: Row) -> bool:
    """Whether a flat row says which of two answers is better, even where it must be told
    which columns they are."""
    columns = _answers(row)
    if columns is None:
        return any(_selected(value) for value in row.values())
    return bool(_winners(row, columns))


def settled(row: Row) -> list[Row]:
    """A flat row as what it comes to; one that compares nothing as it is. Raises BadRow."""
    columns = _answers(row)
    if columns is None:
        return [row]
    winners = _winners(row, columns)
    if not winners:
        raise BadRow(
            _(
                "holds two answers (%(names)s) and no word for the better one; say which"
                " column that is, or leave the row out"
            )
            % {"names": shown(", ".join([*columns, *_id_of(row)]))[:80]}
        )
    sides = {
        "" if _is_of_a_scale(name, row[name]) else _side(row[name], columns)
        for name in winners
    }
    if len(sides) > 1:
        raise BadRow(
            _(
                "“%(one)s” and “%(other)s” differ on which answer is better; say which"
                " column counts"
            )
            % {"one": shown(winners[0])[:40], "other": shown(winners[1])[:40]}
        )
    if not (side := sides.pop()):
        raise _not_understood(winners[0], row[winners[0]])
    question = next((name for name in _QUESTIONS if row.get(name)), None)
    asked = {"prompt": row[question]} if question else {}
    about = row.get("input")
    if question == "instruction" and isinstance(about, str) and about:
        asked["prompt"] = f"{row[question]}\n{about}"  # As Alpaca's rows are asked.
    used = {*columns, *winners, *_READ, question}
    rest = {name: value for name, value in row.items() if name not in used}
    first, second = (row[name] for name in columns)
    if side in ("a", "b"):
        chosen, rejected = (first, second) if side == "a" else (second, first)
        return [{**asked, "chosen": chosen, "rejected": rejected, **rest}]
    # Their ids say that the two belong together, so that neither is joined to another.
    return [
        {
            **asked,
            "completion": answer,
            "label": side == "tie",
            **rest,
            "id": f"{side}-0-{letter}",
        }
        for letter, answer in zip("ab", (first, second), strict=True)
    ]


def refuse_overruled(row: Row) -> None:
    """Raise BadRow where a pair's row also holds a word that its `rejected` won, as where
    people compared the pairs of a file: by its columns it would teach the opposite.
    Elsewhere “rejected” is a word like others, of a status say."""
    for name, value in row.items():
        is_named = _plain(name.removesuffix(".responses")) in _WINNERS
        if _selected(value) == "right" or is_named and _bare(value) == "rejected":
            break
    else:
        return
    raise BadRow(
        _(
            "“%(name)s” says that “rejected” is the better answer; call the two answer_a"
            " and answer_b, or remove “%(name)s” if it doesn't count"
        )
        % {"name": shown(name)[:40]}
    )


def _id_of(row: Row) -> list[str]:
    """For whoever looks it up there: such exports stand on one line, thousands of rows."""
    known = row.get("id")
    return [f"id {known}"] if isinstance(known, int | str) else []


# --- Records ------------------------------------------------------------------------------
def _words_of(annotation: Any) -> Row:
    """What somebody said of one of Label Studio's tasks: {name of the control: value}."""
    if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
        return {}
    results = annotation.get("result")
    return {
        str(one.get("from_name")): one.get("value")
        for one in (results if isinstance(results, list) else [])
        if isinstance(one, dict)
    }


Said = Iterable[tuple[str, str, Any]]
"""Of Argilla's responses: person, question, value."""


def _by_person(own: Row, said: Said) -> list[Row]:
    rows: dict[str, Row] = {}
    for person, question, value in said:
        rows.setdefault(person, {})[question] = value
    return [{**words, **own} for words in rows.values()] or [own]


def _nested(responses: Row) -> Iterator[tuple[str, str, Any]]:
    for question, given in responses.items():
        for one in given if isinstance(given, list) else []:
            if isinstance(one, dict):
                yield str(one.get("user_id")), question, one.get("value")


def _flat(row: Row) -> Iterator[tuple[str, str, Any]]:
    for name, given in row.items():
        question, dot, last = name.rpartition(".")
        if not dot or last != "responses" or not isinstance(given, list):
            continue
        users, states = (row.get(f"{name}.{of}") for of in ("users", "status"))
        for place, value in enumerate(given):
            if _at(states, place) not in ("discarded", "draft"):
                yield str(_at(users, place) or place), question, value


def _at(values: Any, place: int) -> Any:
    return values[place] if isinstance(values, list) and place < len(values) else None


def _is_about_a_question(name: str) -> bool:
    return re.search(r"\.(responses|suggestion)(\.|$)", name) is not None


# --- Columns and words --------------------------------------------------------------------
def _plain(text: Any) -> str:
    return re.sub(r"[\W_]", "", str(text)).lower()


def _answers(row: Row) -> Columns | None:
    """The columns of two answers that differ in their mark alone."""
    if all(_is_answer(row.get(name)) for name in OURS):
        return OURS
    marked: dict[str, dict[str, str]] = {}
    for name, value in row.items():
        if (found := _ANSWER.fullmatch(_plain(name))) and _is_answer(value):
            marked.setdefault(found[1], {})[found[2]] = name
    for stem in STEMS:
        names = marked.get(stem, {})
        for one, other in MARKS:
            if names.keys() == {one, other}:
                return names[one], names[other]
    return None


def _is_answer(value: Any) -> bool:
    return isinstance(value, str | list | dict)


def _winners(row: Row, columns: Columns) -> list[str]:
    """The columns that say which is better: `winner`, else what is named so or says it."""
    if row.get(WINNER) not in (None, ""):
        return [WINNER]
    return [
        name
        for name, value in row.items()
        if name not in columns
        and value not in (None, "", [])
        and (_plain(name) in _WINNERS or _names_one(value, columns))
    ]


def _names_one(value: Any, columns: Columns) -> bool:
    """Whether nothing but a word for one of these answers could look so."""
    if isinstance(value, str) and not _SELECTED.match(value):
        return len(value) <= MAX_WORD and _plain(value) in map(_plain, columns)
    bare = _bare(value)
    return bare is not value and bool(_side(bare, columns))


def _is_of_a_scale(name: str, value: Any) -> bool:
    return _plain(name) in _SCALES and _plain(_bare(value)).isdigit()


def _side(value: Any, columns: Columns) -> str:
    """Which answer it means: a, b, tie or both_bad; empty where that can't be told."""
    value = _bare(value)
    if isinstance(value, bool):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if str(value).strip().startswith("-"):
        return ""  # Of a scale; without its sign it would be a mark.
    word = _plain(value)
    marks = [_plain(name) for name in columns]
    if word in marks:
        return "ab"[marks.index(word)]
    if word in TIES or word in BOTH_BAD:
        return "tie" if word in TIES else "both_bad"
    found = _WORD.fullmatch(word)
    if not found:
        return ""
    if found[1].isdigit():
        ends = [name[-1] for name in marks]
        return "ab"[ends.index(found[1])] if found[1] in ends else ""
    return SIDES[found[1]]


def _selected(value: Any) -> str:
    """The side of a comparison in Label Studio's wrapping; empty where it is none."""
    if isinstance(value, list):
        return _selected(value[0]) if len(value) == 1 else ""
    is_text = isinstance(value, str) and _SELECTED.match(value)
    is_wrapped = is_text or isinstance(value, dict) and "selected" in value
    side = _bare(value) if is_wrapped else ""
    return side if side in ("left", "right") else ""


def _bare(value: Any) -> Any:
    """The word itself, out of what the tools put around it."""
    if isinstance(value, str) and len(value) <= MAX_WORD and _SELECTED.match(value):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if isinstance(value, list) and len(value) > 1:
        return _first_of(value)
    if isinstance(value, list) and value:
        return _bare(value[0])
    for name in ("selected", "choices", "value"):
        if isinstance(value, dict) and name in value:
            return _bare(value[name])
    return value


def _first_of(ranking: list[Any]) -> Any:
    """Argilla's rankings: the best first, or each with its rank. The list itself where it
    may be something else: several people's votes, or a rank for each answer."""
    ranks = [one.get("rank") if isinstance(one, dict) else None for one in ranking]
    if not all(isinstance(rank, int) for rank in ranks):
        names = {_plain(one) for one in ranking if isinstance(one, str)}
        is_order = len(names) == len(ranking) and not any(map(str.isdigit, names))
        return ranking[0] if is_order else ranking
    best = min(ranks)
    return "tie" if ranks.count(best) > 1 else ranking[ranks.index(best)].get("value")


def _not_understood(name: str, value: Any) -> BadRow:
    return BadRow(
        _(
            "“%(name)s” is %(value)s, which could mean either answer; write a, b, tie or"
            " both_bad, or the name of the better answer's column"
        )
        % {"name": shown(name)[:40], "value": shown(str(_bare(value)))[:40] or "“”"}
    )
