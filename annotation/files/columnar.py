"""Rows of Parquet and Arrow files, a batch at a time."""

from collections.abc import Iterator
from typing import Any, BinaryIO

from django.utils.translation import gettext as _

from annotation.errors import ImportRefused
from annotation.files.faults import BadRow, Row
from annotation.files.lines import Damaged
from annotation.files.tables import MAX_ROW_DEPTH, depth

BATCH = 200
MAX_GROUP_BYTES = 2 * 1024**3
"""Unpacked size of one row group: what a reader may have to hold at once."""


def parquet_rows(file: BinaryIO) -> Iterator[tuple[int, Row | BadRow]]:
    """(row from 1, row) of a Parquet file. Raises ImportRefused if it is none."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file, pre_buffer=False)
        groups = [
            table.metadata.row_group(i).total_byte_size
            for i in range(table.num_row_groups)
        ]
    except (pa.ArrowException, OSError, ValueError) as fault:
        raise ImportRefused(
            _("The Parquet file can't be read: %(what)s") % {"what": _first_line(fault)}
        ) from None
    if max(groups, default=0) > MAX_GROUP_BYTES:
        raise ImportRefused(
            _("A row group of the Parquet file is larger than %(most)d bytes unpacked.")
            % {"most": MAX_GROUP_BYTES}
        )
    yield from _rows_of(table.iter_batches(batch_size=BATCH, use_threads=False))


def arrow_rows(file: BinaryIO) -> Iterator[tuple[int, Row | BadRow]]:
    """The same of an Arrow file as `datasets` saves it (stream or file)."""
    import pyarrow as pa

    try:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        if is_file:
            whole = pa.ipc.open_file(file)
            batches = map(whole.get_batch, range(whole.num_record_batches))
        else:
            batches = iter(pa.ipc.open_stream(file))
    except (pa.ArrowException, OSError, ValueError) as fault:
        raise ImportRefused(
            _("The Arrow file can't be read: %(what)s") % {"what": _first_line(fault)}
        ) from None
    yield from _rows_of(batches)


def _rows_of(batches: Iterator[Any]) -> Iterator[tuple[int, Row | BadRow]]:
    import pyarrow as pa

    number = 0
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            rows = [
                row
                for start in range(0, batch.num_rows, BATCH)
                for row in batch.slice(start, BATCH).to_pylist()
            ]
        except Damaged as damaged:
            yield number + 1, BadRow(str(damaged))
            return
        except (pa.ArrowException, OSError, ValueError) as fault:
            what = {"what": _first_line(fault)}
            yield (
                number + 1,
                BadRow(
                    _("the file is damaged from here on: %(what)s; send it again")
                    % what
                ),
            )
            return
        for row in rows:
            number += 1
            if depth(row) > MAX_ROW_DEPTH:
                yield number, BadRow(_("nested too deeply; a row is a flat object"))
            else:
                yield number, {name: _said(value) for name, value in row.items()}


def _said(value: Any) -> Any:
    """As JSON has it. A field that a struct has only for other rows' sake is absent."""
    if isinstance(value, dict):
        return {n: _said(v) for n, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_said(inner) for inner in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


def _first_line(fault: Exception) -> str:
    return (str(fault).splitlines() or [type(fault).__name__])[0][:200]
