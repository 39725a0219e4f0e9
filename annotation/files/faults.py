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


Row = dict[str, Any]
Messages = list[dict[str, Any]]


def shown(text: str) -> str:
    """Without what a report's JSON or a terminal can't carry."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


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
