"""The word diff of two texts, for people to read: what stayed, what went, what came.

Words are split where writing splits them: letters and digits run together, a character
of a script without spaces (Chinese, Japanese, Thai …) is a word of its own, and so is
every other mark. Pure; how a diff is coloured is for templates. The compare page shows
the same diff while somebody types, by static/worddiff.js.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Literal

from rapidfuzz.distance import LCSseq

Part = tuple[Literal["same", "gone", "new"], str]

# Scripts written without spaces: kana, Han and its extensions, Thai, Lao, Khmer, Myanmar.
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003fffd"
)
# Accents and vowel signs belong to the character before them.
_MARKS = "".join(
    chr(point)
    for point in range(0x300, 0x10000)
    if unicodedata.category(chr(point)) in ("Mn", "Mc")
)
_WORD = re.compile(
    rf"[^\S\n]+|\n|[{_ALONE}][{_MARKS}]*|[^\W{_ALONE}](?:[^\W{_ALONE}]|[{_MARKS}])*|."
    rf"[{_MARKS}]*",
    re.DOTALL,
)

MOST_CELLS = 25_000_000
"""Words of one text times words of the other: above it only the ends are compared, so
that no text takes more than a fraction of a second or some megabytes."""


def words(text: str) -> list[str]:
    """The text cut into words, spaces and marks; joined they are the text again."""
    return _WORD.findall(text)


def word_diff(one: str, other: str) -> list[Part]:
    """How `one` becomes `other`: parts in reading order, no two alike in a row.

    The parts "same" and "gone" joined are `one`, "same" and "new" joined are `other`.
    Where something is replaced, what went comes before what came. A space alone between
    two changes counts as changed, so that a rewritten phrase is one change to the eye.
    """
    if one == other:
        return [("same", one)] if one else []
    before, after = words(one), words(other)
    start = _shared_start(before, after)
    end = _shared_start(before[start:][::-1], after[start:][::-1])
    middle = (before[start : len(before) - end], after[start : len(after) - end])
    parts = [
        ("same", "".join(before[:start])),
        *_aligned(*middle),
        ("same", "".join(before[len(before) - end :])),
    ]
    return _joined(part for part in parts if part[1])


def _shared_start(before: list[str], after: list[str]) -> int:
    shared = 0
    for old, new in zip(before, after, strict=False):
        if old != new:
            break
        shared += 1
    return shared


def _aligned(before: list[str], after: list[str]) -> list[Part]:
    if len(before) * len(after) > MOST_CELLS:
        return [("gone", "".join(before)), ("new", "".join(after))]
    parts: list[Part] = []
    for step in LCSseq.opcodes(before, after):
        old = "".join(before[step.src_start : step.src_end])
        new = "".join(after[step.dest_start : step.dest_end])
        parts += (
            [("same", old)] if step.tag == "equal" else [("gone", old), ("new", new)]
        )
    return parts


def _joined(parts: Iterable[Part]) -> list[Part]:
    """One "gone" and one "new" for each stretch of change, spaces inside it included."""
    joined: list[Part] = []
    gone = new = ""
    pending = ""  # a space that belongs to the change, if the change goes on after it
    for kind, text in parts:
        if kind == "same":
            if (gone or new) and text.isspace() and "\n" not in text and not pending:
                pending = text
                continue
            joined += _change(gone, new)
            joined.append(("same", pending + text))
            gone = new = pending = ""
            continue
        gone, new, pending = gone + pending, new + pending, ""
        if kind == "gone":
            gone += text
        else:
            new += text
    joined += _change(gone, new)
    if pending:
        joined.append(("same", pending))
    return joined


def _change(gone: str, new: str) -> list[Part]:
    parts: list[Part] = []
    if gone:
        parts.append(("gone", gone))
    if new:
        parts.append(("new", new))
    return parts
