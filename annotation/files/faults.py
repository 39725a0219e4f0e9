"""What is wrong with a row, and texts fit to be shown in saying so."""

from typing import Any

MAX_ROW_DEPTH = 60
"""Levels of lists and objects in a row; PostgreSQL and readers end somewhere above."""


class BadRow(Exception):
    """Why a row makes no prompt and no pair; its text names field and fix."""


Row = dict[str, Any]
Messages = list[dict[str, Any]]


def shown(text: str) -> str:
    """Without what a report's JSON or a terminal can't carry."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)
