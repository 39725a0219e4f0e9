"""What is wrong with a row, and texts fit to be shown in saying so."""

from typing import Any

from django.utils.translation import gettext as _

MAX_ROW_DEPTH = 60
"""Levels of lists and objects in a row; PostgreSQL and readers end somewhere above."""


class BadRow(Exception):
    """Why a row makes no prompt and no pair; its text names field and fix."""


class PythonText(str):
    """A cell with messages as Python writes them. As a text it would teach a model brackets
    and quotes, and it can't be read for sure: numpy leaves out the commas between them."""


KNOWN = {
    *("prompt", "messages", "conversations", "instruction"),
    *("chosen", "completion", "preferred_output"),
}
"""Fields by which a row of prompts or pairs is known; each format has one of them."""

Row = dict[str, Any]
Messages = list[dict[str, Any]]
Place = tuple[str, int]
"""Part of an archive (empty for a file that stands alone) and line."""
Placed = tuple[Place, Row | BadRow]


def shown(text: str) -> str:
    """Without what a report's JSON or a terminal can't carry."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def refuse_wrapped(row: Row) -> None:
    """Raise BadRow where a row that is none holds a list of rows, as `{"data": […]}`."""
    for name, value in row.items():
        rows = value if isinstance(value, list) else []
        if any(isinstance(one, dict) and KNOWN & one.keys() for one in rows):
            raise BadRow(
                _(
                    "“%(name)s” holds a list of rows; write the list alone, or each of its"
                    " rows on a line"
                )
                % {"name": shown(name)[:40]}
            )


def refuse_python(row: Row, *names: str) -> None:
    """Raise BadRow where one of these fields holds PythonText."""
    for name in names:
        if isinstance(row.get(name), PythonText):
            raise BadRow(
                _(
                    "“%(name)s” holds messages as Python writes them ([{'role': …}]); write"
                    " them as JSON (json.dumps), or the file as JSONL"
                )
                % {"name": name}
            )
