"""What tests read out of an export's response."""

import csv
import io
import json


def body(response):
    return b"".join(response)


def rows(response):
    return [json.loads(line) for line in body(response).decode().splitlines()]


def cells(response):
    text = body(response).decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))
