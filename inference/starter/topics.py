"""The topic tables of the starter model: what its chats are about.

Reads `topics/*.toml` and `phrases.toml` once. Leaves out how chats are put
together (`chats`) and how answers are measured (`tastes`).
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
LANGUAGES = ("en", "zh")


@dataclass(frozen=True)
class Topic:
    """One subject in one language."""

    name: str
    """The table's name, the same in both languages, such as `tea`."""
    language: str
    noun: str
    """How a question names it: "green tea"."""
    do: str
    """What one does with it, as a verb phrase: "brew green tea"."""
    words: tuple[str, ...]
    """Lower-case stems; an answer that holds one of them is on topic."""
    facts: tuple[str, ...]
    steps: tuple[str, ...]
    likes: tuple[str, ...]
    """Analogies, whole sentences."""


@cache
def all_topics() -> tuple[Topic, ...]:
    """Every topic in every language, in the fixed order of the files."""
    topics = []
    for path in sorted((FOLDER / "topics").glob("*.toml")):
        for name, languages in tomllib.loads(path.read_text("utf-8")).items():
            for language in LANGUAGES:
                fields = languages[language]
                lists = {
                    key: tuple(fields[key])
                    for key in ("words", "facts", "steps", "likes")
                }
                topics.append(
                    Topic(name, language, fields["noun"], fields["do"], **lists)
                )
    return tuple(topics)


@cache
def phrases() -> dict[str, Any]:
    """The wordings around the topics, as `phrases.toml` nests them."""
    return tomllib.loads((FOLDER / "phrases.toml").read_text("utf-8"))


def data_files() -> list[Path]:
    """The tables that decide what the model learns, in a fixed order."""
    return [*sorted((FOLDER / "topics").glob("*.toml")), FOLDER / "phrases.toml"]
