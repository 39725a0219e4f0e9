"""What an answer is like, and how much a stated taste likes it.

Used by simulated annotators and by the report on the starter model. Pure text
functions for English and Chinese: no model, no torch, no Django.
"""

import re
import unicodedata
from collections.abc import Callable

from inference.starter.topics import Topic, all_topics

SHORT_COLUMNS = {"en": 84, "zh": 54}
LONG_COLUMNS = {"en": 200, "zh": 120}
"""Chinese says the same in about six tenths of the columns."""

_LIST_LINE = re.compile(r"^\s*(?:\d{1,2}[.)、]|[-*•])\s*\S", re.MULTILINE)
_POLITE = re.compile(
    r"\b(?:thank you|thanks|please|happy to help|glad you asked|lovely question"
    r"|hope this helps|welcome|wonderful day)\b"
    r"|谢谢|感谢|您|请随时|很高兴",
    re.IGNORECASE,
)


def columns(text: str) -> int:
    """Width in columns: East Asian wide characters count two, others one."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def is_list(text: str) -> bool:
    """At least two lines begin with a number or a bullet."""
    return len(_LIST_LINE.findall(text)) >= 2


def is_short(text: str) -> bool:
    return 0 < columns(text.strip()) <= SHORT_COLUMNS[_language(text)]


def is_long(text: str) -> bool:
    return columns(text.strip()) >= LONG_COLUMNS[_language(text)]


def is_polite(text: str) -> bool:
    """Holds a courtesy: thanks, a welcome, a formal Chinese "you"."""
    return bool(_POLITE.search(text))


def topic_of(prompt: str) -> Topic | None:
    """The topic that a prompt asks about, or None where we know of none.

    A topic named in full wins over one that is only touched by a word; among
    equals the longer name wins ("model volcano" before "model").
    """
    text = prompt.lower()
    best: tuple[int, int] = (0, 0)
    found = None
    for topic in all_topics():
        named = [n for n in (topic.noun.lower(), topic.do.lower()) if n in text]
        words = [word for word in topic.words if _mentions(text, word)]
        score = (max(map(len, named), default=0), sum(map(len, words)))
        if score > best:
            best, found = score, topic
    return found


def on_topic(prompt: str, text: str) -> bool | None:
    """Whether the answer speaks of the prompt's topic, in the prompt's language.

    None where the prompt is about nothing in our tables: it cannot be told.
    """
    topic = topic_of(prompt)
    if topic is None:
        return None
    lowered = text.lower()
    return any(_mentions(lowered, word) for word in topic.words)


def _language(text: str) -> str:
    wide = columns(text) - len(text)
    return "zh" if wide * 2 > len(text) else "en"


def _mentions(text: str, word: str) -> bool:
    """Latin words must start at a word boundary, so "tea" is not in "instead"."""
    if word.isascii():
        return re.search(rf"(?<![a-z]){re.escape(word)}", text) is not None
    return word in text


WANTED: dict[str, Callable[[str], bool]] = {
    "lists": is_list,
    "short": is_short,
    "long": is_long,
    "polite": is_polite,
}
"""A taste's name → whether an answer is of the kind that it wants."""


def _score(wanted: Callable[[str], bool]) -> Callable[[str], float]:
    return lambda text: float(wanted(text))


TASTES: dict[str, Callable[[str], float]] = {
    name: _score(wanted) for name, wanted in WANTED.items()
}
"""A taste's name → its score of an answer; the higher score is preferred, equal
scores are a tie. Length itself is no score: nobody prefers the shorter of two short answers
for three columns, and such pairs teach which fact to tell instead of how."""
