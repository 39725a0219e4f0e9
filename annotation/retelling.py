"""Sentences written down in English, told again in the reader's language.

Workers have no reader: what they note (why a rule rejects, why a round failed, what a
server is doing) is kept in English. A sentence that the catalog knows is found by its
pattern and filled in anew; any other stays as it is. What pure code writes, which
cannot mark its strings, is marked here and in training/templatetags/round_words.py.
"""

import re
from functools import lru_cache
from typing import Any

from django.utils.translation import get_language, gettext_noop, trans_real

RULE_REASONS = (
    gettext_noop("both answers are the same"),
    gettext_noop("the chosen answer is empty"),
    gettext_noop("the rejected answer is empty"),
    gettext_noop("the chosen answer was cut off at max_tokens"),
    gettext_noop("the rejected answer was cut off at max_tokens"),
    gettext_noop("the chosen answer is %(width)s columns wide, less than %(least)s"),
    gettext_noop("the rejected answer is %(width)s columns wide, less than %(least)s"),
    gettext_noop("an answer of %(length)s characters is too long to compare"),
    gettext_noop("similarity %(found)s is above %(most)s"),
    gettext_noop("the tokens could not be counted"),
    gettext_noop("%(count)s tokens with the prompt, more than %(most)s"),
    gettext_noop("%(count)s tokens with the prompt; rounds cut at %(most)s"),
    gettext_noop("the chosen answer tells whose model it is: “%(words)s”"),
    gettext_noop("the rejected answer tells whose model it is: “%(words)s”"),
    gettext_noop("%(share)s of the chosen answer repeats itself, more than %(most)s"),
    gettext_noop(
        "the chosen answer says “%(words)s” %(times)s times in a row, more than %(most)s"
    ),
    gettext_noop("the chosen answer holds a card number: %(masked)s"),
    gettext_noop("the rejected answer holds a card number: %(masked)s"),
    gettext_noop("the chosen answer holds a Chinese identity number: %(masked)s"),
    gettext_noop("the rejected answer holds a Chinese identity number: %(masked)s"),
    gettext_noop("the chosen answer holds a bank account number: %(masked)s"),
    gettext_noop("the rejected answer holds a bank account number: %(masked)s"),
    gettext_noop("the chosen answer holds an e-mail address: %(masked)s"),
    gettext_noop("the rejected answer holds an e-mail address: %(masked)s"),
    gettext_noop("the chosen answer holds a phone number: %(masked)s"),
    gettext_noop("the rejected answer holds a phone number: %(masked)s"),
    gettext_noop("the prompt is in %(asked)s, the chosen answer in %(given)s"),
    gettext_noop(
        "the prompt is in %(asked)s, the chosen answer in %(given)s; the prompt speaks"
        " of a language"
    ),
    gettext_noop(
        "the prompt is in %(asked)s, the chosen answer in %(given)s; the prompt has both"
    ),
    gettext_noop(
        "the prompt is in %(asked)s, the chosen answer in %(given)s; its characters are"
        " used in both"
    ),
    gettext_noop("only the chosen answer refuses: “%(words)s”"),
    gettext_noop("only the rejected answer refuses: “%(words)s”"),
    gettext_noop(
        "pairs that say the opposite: %(opposing)s; that say the same: %(agreeing)s"
    ),
    gettext_noop("nobody looked for the opposite pair"),
    gettext_noop("nobody looked for similar prompts"),
    gettext_noop("the prompt is %(found)s alike another one, at least %(least)s"),
    gettext_noop(
        "too many prompts are alike to compare them all; of those compared the nearest"
        " is %(found)s alike"
    ),
    gettext_noop("the rule failed: %(fault)s"),
)
"""What the rules in annotation/rules/ say, and annotation/validation.py of broken ones."""

SCRIPTS = (
    gettext_noop("Latin"),
    gettext_noop("Chinese"),
    gettext_noop("Japanese"),
    gettext_noop("Korean"),
    gettext_noop("Cyrillic"),
    gettext_noop("Arabic"),
    gettext_noop("Hebrew"),
    gettext_noop("Greek"),
    gettext_noop("Devanagari"),
    gettext_noop("Bengali"),
    gettext_noop("Tamil"),
    gettext_noop("Telugu"),
    gettext_noop("Thai"),
    gettext_noop("Georgian"),
    gettext_noop("Armenian"),
)
"""What those reasons call the script of a text."""

JSON_FAULTS = (
    gettext_noop("Expecting value"),
    gettext_noop("Expecting property name enclosed in double quotes"),
    gettext_noop("Expecting ':' delimiter"),
    gettext_noop("Expecting ',' delimiter"),
    gettext_noop("Extra data"),
    gettext_noop("Unterminated string starting"),
    gettext_noop("Invalid control character"),
    gettext_noop("Invalid \\escape"),
)
"""What Python says of a line that is no JSON, without an “at” at its end."""

CSV_FAULTS = (
    gettext_noop("'%(delimiter)s' expected after '%(quote)s'"),
    gettext_noop("unexpected end of data"),
    gettext_noop("field larger than field limit (%(most)s)"),
)
"""What Python says of a line that is no CSV, read strictly."""

SAMPLING_FAULTS = (
    gettext_noop("%(name)s must be from %(least)s to %(most)s, not %(value)s"),
    gettext_noop(
        "%(name)s must be above %(floor)s and at most %(most)s, not %(value)s"
    ),
    gettext_noop("%(name)s must be a number, not %(value)s"),
    gettext_noop("%(name)s must be a whole number, not %(value)s"),
    gettext_noop("%(name)s must be finite"),
    gettext_noop("%(name)s is not a sampling parameter"),
)
"""What inference/sampling.py says."""

LEAST_TELLING = 6
"""Letters beside the fields; a sentence of fewer would fit too much."""

LONGEST = 1000
"""Characters; a longer text is no sentence of ours."""

FIELD = re.compile(r"%\((\w+)\)[-+0-9.]*[a-z]")
PIECE = re.compile(rf"{FIELD.pattern}|%%")
QUOTED = re.compile(r"“%\((\w+)\)")
Sentence = tuple[int, re.Pattern[str], str, frozenset[str]]
"""Letters beside the fields, what a text must match, the translation, and the fields that
stand in quotes."""


def retold(text: str) -> str:
    """`text` in the active language, where it is a sentence of the catalog."""
    language = get_language() or "en"
    if language.startswith("en") or not text or len(text) > LONGEST:
        return text
    exact = _catalog().get(text)
    if isinstance(exact, str):
        return exact
    for _length, pattern, translation, quoted in _sentences(language):
        if found := pattern.fullmatch(text):
            # What is quoted is somebody else's: an answer that says “skip” says so in
            # every language. The others may be sentences themselves.
            values = {
                name: value if name in quoted else retold(value)
                for name, value in found.groupdict().items()
            }
            return _filled(translation, values)
    return text


def _catalog() -> Any:
    """{text: translation}, read as Django's own JavaScriptCatalog reads it."""
    catalog: Any = trans_real.catalog()
    return catalog._catalog


def _filled(translation: str, values: dict[str, str]) -> str:
    """The fields hold what was printed, so they are put in as they are."""
    return PIECE.sub(lambda piece: values[piece[1]] if piece[1] else "%", translation)


@lru_cache(maxsize=4)
def _sentences(language: str) -> list[Sentence]:
    """Patterns of all sentences with fields, the most telling first."""
    sentences = []
    for msgid, translation in _catalog().items():
        if isinstance(msgid, str) and isinstance(translation, str):
            sentence = _sentence(msgid, translation)
            if sentence:
                sentences.append(sentence)
    return sorted(sentences, key=lambda sentence: -sentence[0])


def _sentence(msgid: str, translation: str) -> Sentence | None:
    words = FIELD.split(msgid)[::2]
    names = FIELD.findall(msgid)
    telling = len(re.findall(r"\w", "".join(words)))
    if (
        not names
        or telling < LEAST_TELLING
        or set(FIELD.findall(translation)) - set(names)
    ):
        return None
    pattern, seen = re.escape(words[0].replace("%%", "%")), set()
    for name, after in zip(names, words[1:], strict=True):
        pattern += rf"(?P={name})" if name in seen else rf"(?P<{name}>.+?)"
        pattern += re.escape(after.replace("%%", "%"))
        seen.add(name)
    quoted = frozenset(QUOTED.findall(msgid))
    return telling, re.compile(pattern, re.DOTALL), translation, quoted
