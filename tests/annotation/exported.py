"""What tests read out of an export's response."""

import csv
import io
import json

from annotation import downloads


def body(response):
    return b"".join(response)


def export(project, format):
    """A project's sound pairs as lines of JSON, and what KTO's form has beside them."""
    text = body(downloads.pairs(project, {"format": format})).decode()
    return [f"{line}\n" for line in text.split("\n")[:-1]]


def rows(response):
    return [json.loads(line) for line in body(response).decode().splitlines()]


def cells(response):
    text = body(response).decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))
