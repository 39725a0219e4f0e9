"""Rows as bytes of a file, streamed: JSON lines, CSV for spreadsheets, Parquet."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from annotation.batches import in_batches
from annotation.files.columns import Columns
from annotation.files.faults import Messages, Row
from annotation.files.messages import plain
from annotation.files.tables import defused, messages_in

GROUP = 1000
"""Rows of a Parquet row group: what is in memory at a time."""

TYPES = {
    "jsonl": "application/jsonl",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "zip": "application/zip",
}
TABLES = ("jsonl", "csv", "parquet")


def written(rows: Iterable[Row], columns: Columns, format: str) -> Iterator[bytes]:
    """The rows as a file of one of TABLES."""
    if format == "csv":
        return _csv(rows, columns)
    return _parquet(rows, columns) if format == "parquet" else _jsonl(rows)


def _jsonl(rows: Iterable[Row]) -> Iterator[bytes]:
    for row in rows:
        yield (json.dumps(row, ensure_ascii=False, default=_plain) + "\n").encode()


def _csv(rows: Iterable[Row], columns: Columns) -> Iterator[bytes]:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    # With the mark, spreadsheets take the file for the UTF-8 it is.
    file.write("\ufeff")
    writer.writerow(columns)
    for batch in in_batches(rows):
        writer.writerows([_cell(row.get(name)) for name in columns] for row in batch)
        yield file.getvalue().encode()
        file.seek(0)
        file.truncate()
    if file.getvalue():
        yield file.getvalue().encode()


def _cell(value: Any) -> str | int | float:
    if value is None:
        return ""
    if isinstance(value, list):
        value = _chat_cell(value)
    if isinstance(value, dict):
        value = _named(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return value
    return defused(value if isinstance(value, str) else _plain(value))


def _chat_cell(value: Messages | list[str]) -> str:
    """One message's text where `messages_in` takes it for no chat; else JSON."""
    if len(value) == 1 and isinstance(value[0], dict):
        (only,) = value
        is_plain = set(only) == {"role", "content"} and only["role"] in (
            "user",
            "assistant",
        )
        text = only["content"]
        if is_plain and isinstance(text, str) and type(messages_in(text)) is str:
            return text
    return json.dumps(value, ensure_ascii=False)


def _named(value: dict[str, str]) -> str:
    """As JSON: which names there are differs from row to row."""
    return json.dumps(value, ensure_ascii=False) if value else ""


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


class Sink(io.RawIOBase):
    """Takes what a writer of files writes, and gives it away piece by piece."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._place = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._place += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._place

    def taken(self) -> bytes:
        data, self._pieces = b"".join(self._pieces), []
        return data


def _parquet(rows: Iterable[Row], columns: Columns) -> Iterator[bytes]:
    import pyarrow as pa
    from pyarrow import parquet

    schema = _schema(columns)
    sink = Sink()
    with parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        for batch in in_batches(rows, GROUP):
            table = [
                {name: _value(row.get(name), columns[name]) for name in columns}
                for row in batch
            ]
            writer.write_batch(pa.RecordBatch.from_pylist(table, schema=schema))
            yield sink.taken()
    yield sink.taken()


def _schema(columns: Columns) -> Any:
    import pyarrow as pa

    chat = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    kinds = {
        "text": pa.string(),
        "chat": chat,
        "texts": pa.list_(pa.string()),
        "named": pa.string(),
        "number": pa.float64(),
        "whole": pa.int64(),
        "time": pa.timestamp("us", tz="UTC"),
        "flag": pa.bool_(),
    }
    return pa.schema([(name, kinds[kind]) for name, kind in columns.items()])


def _value(value: Any, kind: str) -> Any:
    if kind == "chat" and value is not None:
        return [{"role": one["role"], "content": plain(one)} for one in value]
    return _named(value) if kind == "named" else value
