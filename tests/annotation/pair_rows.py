"""Rows of files of pairs, put in and given back."""

import io
import json

from annotation import exporting
from annotation.importing import import_pairs
from annotation.models import PreferencePair
from annotation.queries import standing_pairs


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def load(project, data, format=None):
    data = data if isinstance(data, bytes) else jsonl(data)
    return import_pairs(project, io.BytesIO(data), format)


def given_back(project, format):
    """The rows that all of the project's pairs go out as."""
    return [
        json.loads(line) for line in exporting.jsonl(standing_pairs(project), format)
    ]


def contents(project):
    return [
        (
            exporting.prompt_messages(p),
            *map(exporting.answer_messages, (p.chosen, p.rejected)),
        )
        for p in PreferencePair.objects.filter(project=project).order_by("pk")
    ]


def user(text):
    return {"role": "user", "content": text}


def says(text):
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "18 °C"}
KTO = [
    {"prompt": "Q", "completion": "good", "label": True, "id": 1},
    {"prompt": [user("R")], "completion": [says("bad")], "label": False},
    {"prompt": "Q", "completion": "bad", "label": False},
    {"prompt": [user("R")], "completion": [says("good")], "label": True, "by": "x"},
]

GOOD = {"prompt": "Good?", "chosen": "yes", "rejected": "no"}
PLAIN = ([user("Good?")], [says("yes")], [says("no")])
