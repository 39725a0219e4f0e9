"""The words in which two rendered answers differ, marked in both of them.

It works on the words as they are read, not on their Markdown: a word in bold here and
plain there is the same word. Neither answer came before the other, so both columns get
the same <mark>, where <del> and <ins> would tell of an edit that nobody made. A formula
differs as a whole.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from html.parser import HTMLParser

from django.utils.safestring import SafeString, mark_safe

from annotation.diffing import word_diff
from annotation.models import Lease
from annotation.pages import completion_html

# What ends a line for the eye: words on its two sides are no neighbours.
_LINES = {
    *("p", "br", "hr", "h3", "h4", "h5", "h6", "div", "pre", "blockquote"),
    *("ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td"),
}
_FORMULA = 0xF0000
"""Formulas stand in the text as one private character each, equal ones as the same."""


@dataclass(frozen=True)
class Differences:
    """Two answers' HTML with <mark>s, and in how many places they differ."""

    first: SafeString
    second: SafeString
    places: int


@dataclass(frozen=True)
class _Piece:
    """A part of rendered HTML and what of it is compared; `text` may be empty."""

    html: str
    text: str = ""
    is_whole: bool = False
    """Cannot be marked in part."""


def of_lease(lease: Lease) -> Differences:
    """Of the two answers on the desk, in the order in which they are shown."""
    return marked(completion_html(lease.first), completion_html(lease.second))


def marked(first: str, second: str) -> Differences:
    """Takes HTML as annotation/rendering writes it; bounded as `word_diff` is."""
    formulas: dict[str, str] = {}
    pieces = [_Pieces(html, formulas).found for html in (first, second)]
    texts = ["".join(piece.text for piece in found) for found in pieces]
    changes = word_diff(*texts)
    shown = [
        mark_safe("".join(_with_marks(found, _spans(changes, kind))))
        for found, kind in zip(pieces, ("gone", "new"), strict=True)
    ]
    return Differences(shown[0], shown[1], _places(changes))


def _places(changes: list) -> int:
    """Stretches of change; what differs only in line ends counts as no place."""
    kinds = [kind for kind, text in changes if kind == "same" or text.strip()]
    return sum(
        kind != "same" and (not before or kinds[before - 1] == "same")
        for before, kind in enumerate(kinds)
    )


def _spans(changes: list, wanted: str) -> list[tuple[int, int]]:
    """Where in its own text the wanted kind stands, as [start, end)."""
    spans, place = [], 0
    for kind, text in changes:
        if kind in ("same", wanted):
            if kind == wanted:
                spans.append((place, place + len(text)))
            place += len(text)
    return spans


def _with_marks(pieces: list[_Piece], spans: list[tuple[int, int]]) -> Iterator[str]:
    place = number = 0
    for piece in pieces:
        start, place = place, place + len(piece.text)
        while number < len(spans) and spans[number][1] <= start:
            number += 1
        if not piece.text.strip():
            yield piece.html
        elif piece.is_whole:
            inside = number < len(spans) and spans[number][0] < place
            yield f'<mark class="whole">{piece.html}</mark>' if inside else piece.html
        else:
            yield _marked_text(piece.text, start, spans, number)


def _marked_text(
    text: str, start: int, spans: list[tuple[int, int]], number: int
) -> str:
    shown, done = [], 0
    while number < len(spans) and spans[number][0] < start + len(text):
        low = max(0, spans[number][0] - start)
        high = min(len(text), spans[number][1] - start)
        shown.append(escape(text[done:low], quote=False))
        shown.append(_mark(text[low:high]))
        done, number = high, number + 1
    shown.append(escape(text[done:], quote=False))
    return "".join(shown)


def _mark(text: str) -> str:
    """Line by line and without the spaces around: an underlined space is noise."""
    return "".join(
        f"<mark>{escape(part, quote=False)}</mark>" if part.strip() else part
        for part in re.split(r"(\n|^\s+|\s+$)", text)
    )


class _Pieces(HTMLParser):
    """Rendered HTML cut at its tags; what is put together again is the same."""

    def __init__(self, html: str, formulas: dict[str, str]):
        super().__init__(convert_charrefs=True)
        self.found: list[_Piece] = []
        self._formulas = formulas
        self._formula: list[str] | None = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "math":
            self._formula = []
        self._keep(tag, self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        self._keep(tag, f"</{tag}>")
        if tag == "math" and self._formula is not None:
            html = "".join(self._formula)
            sign = self._formulas.setdefault(html, chr(_FORMULA + len(self._formulas)))
            self.found.append(_Piece(html, sign, is_whole=True))
            self._formula = None

    def handle_data(self, data: str) -> None:
        if self._formula is not None:
            self._formula.append(escape(data, quote=False))
        else:
            self.found.append(_Piece(escape(data, quote=False), data))

    def _keep(self, tag: str, html: str) -> None:
        if self._formula is not None:
            self._formula.append(html)
        elif tag in _LINES:
            # Compared as the end of a line, written as the tag it is.
            self.found += [_Piece("", "\n"), _Piece(html)]
        else:
            self.found.append(_Piece(html))
