"""The columns of our own tables, by which a file that was exported here is known again."""

Columns = dict[str, str]
"""{name: kind}, of: text, chat, texts, named (texts by name), number, whole, time, flag."""

PAIRS: Columns = {
    "id": "text",
    "prompt": "chat",
    "chosen": "chat",
    "rejected": "chat",
    "weight": "number",
    "kind": "text",
    "original": "text",
}
JUDGMENTS: Columns = {
    "id": "text",
    "comparison": "text",
    "purpose": "text",
    "prompt": "chat",
    "first": "text",
    "second": "text",
    "verdict": "text",
    "winner": "text",
    "strength": "whole",
    "reasons": "texts",
    "criteria": "named",
    "comment": "text",
    "edited": "text",
    "annotator": "text",
    "seconds": "number",
    "created_at": "time",
}
PROMPTS: Columns = {
    "id": "text",
    "prompt": "chat",
    "held_out": "flag",
    "created_at": "time",
}


def is_ours(names: list[str]) -> bool:
    """Whether a table with these columns was exported here; in any order."""
    return any(set(names) == set(columns) for columns in (PAIRS, JUDGMENTS, PROMPTS))
