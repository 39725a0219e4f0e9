"""Rows of Parquet and Arrow files, a few at a time.

A text that stands in a dictionary is stored once and used by any number of rows, so a
file of some hundred bytes may unpack to gigabytes. How many rows are read at once is
therefore set by the longest text in a dictionary, and no row may be longer than a line.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

from django.utils.translation import gettext as _

from annotation.errors import ImportRefused
from annotation.files.faults import BadRow, Row, shown
from annotation.files.lines import Damaged, Unpacked
from annotation.files.tables import MAX_ROW_DEPTH, depth

BATCH = 200
MAX_BATCH_BYTES = 64 * 1024**2
"""What the rows read at once may come to through texts of dictionaries."""
MAX_GROUP_BYTES = 2 * 1024**3
"""Unpacked size of one row group: what a reader may have to hold at once."""
_FAULTS = (OSError, ValueError, OverflowError, RecursionError)
"""What pyarrow raises on damaged contents, beside its own."""

Numbered = Iterator[tuple[int, Row | BadRow]]


def parquet_rows(file: BinaryIO, longest: int, unpacked: Unpacked) -> Numbered:
    """(row from 1, row) of a Parquet file; none comes to more than `longest` bytes.

    Raises ImportRefused if it is none.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        about = parquet.read_metadata(file)
        groups = [about.row_group(i) for i in range(about.num_row_groups)]
        most = max((_most(about.schema, group) for group in groups), default=0)
        table = parquet.ParquetFile(file, metadata=about, pre_buffer=False)
        names = table.schema_arrow.names
    except (pa.ArrowException, *_FAULTS) as fault:
        raise ImportRefused(
            _("The Parquet file can't be read: %(what)s") % {"what": _first_line(fault)}
        ) from None
    if most > MAX_GROUP_BYTES:
        raise ImportRefused(
            _("A row group of the Parquet file is larger than %(most)d bytes unpacked.")
            % {"most": MAX_GROUP_BYTES}
        )
    _refuse_doubled(names)
    batches = (
        batch
        for number in range(len(groups))
        for batch in table.iter_batches(
            _count(file, about, number), row_groups=[number], use_threads=False
        )
    )
    yield from _rows_of(batches, longest, unpacked)


def _most(schema: Any, group: Any) -> int:
    """Bytes that a row group may take by its metadata, but for texts of dictionaries."""
    total = group.total_byte_size
    for i in range(group.num_columns):
        column, kind = group.column(i), schema.column(i)
        width = 8
        if kind.physical_type == "FIXED_LEN_BYTE_ARRAY":
            width = kind.length
        elif "DELTA_BYTE_ARRAY" in column.encodings:
            # A text may be all of the one before, and some more.
            width = column.total_uncompressed_size
        total += column.num_values * width
    return total


def _count(file: BinaryIO, about: Any, number: int) -> int:
    """How many rows of the group may be read at once, if its lists are of like length.

    Dictionaries are looked at only where they could make these rows long.
    """
    from pyarrow import parquet

    group = about.row_group(number)
    columns = {
        about.schema.column(i).path: group.column(i)
        for i in range(group.num_columns)
        if about.schema.column(i).physical_type == "BYTE_ARRAY"
        and group.column(i).has_dictionary_page
    }
    words = {path: one.total_uncompressed_size for path, one in columns.items()}
    uses = {
        path: one.num_values / max(1, group.num_rows) for path, one in columns.items()
    }
    if BATCH * sum(uses[path] * words[path] for path in columns) > MAX_BATCH_BYTES:
        table = parquet.ParquetFile(
            file, metadata=about, pre_buffer=False, read_dictionary=list(columns)
        )
        for path, column in columns.items():
            if any(encoding.startswith("DELTA") for encoding in column.encodings):
                continue  # pyarrow can't read these as dictionaries.
            first = next(table.iter_batches(1, row_groups=[number], columns=[path]))
            words[path] = max(map(_longest_word, first.columns))
    row = sum(uses[path] * words[path] for path in columns)
    return max(1, min(BATCH, int(MAX_BATCH_BYTES / max(1, row))))


def _longest_word(array: Any) -> int:
    """Bytes of the longest text in the dictionaries of an array."""
    from pyarrow import compute, types

    kind = array.type
    if types.is_dictionary(kind):
        if not _is_text(kind.value_type):
            return 0
        return compute.max(compute.binary_length(array.dictionary)).as_py() or 0
    if types.is_struct(kind):
        parts = [array.field(i) for i in range(kind.num_fields)]
    elif types.is_map(kind):
        parts = [array.keys, array.items]
    else:
        parts = [array.values] if _is_list(kind) else []
    return max(map(_longest_word, parts), default=0)


def arrow_rows(file: BinaryIO, longest: int, unpacked: Unpacked) -> Numbered:
    """The same of an Arrow file as `datasets` saves it (stream or file)."""
    import pyarrow as pa

    try:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        if is_file:
            whole = pa.ipc.open_file(file)
            batches = map(whole.get_batch, range(whole.num_record_batches))
        else:
            whole = pa.ipc.open_stream(file)
            batches = iter(whole)
        names = whole.schema.names
    except (pa.ArrowException, *_FAULTS) as fault:
        raise ImportRefused(
            _("The Arrow file can't be read: %(what)s") % {"what": _first_line(fault)}
        ) from None
    _refuse_doubled(names)
    yield from _rows_of(batches, longest, unpacked)


def _refuse_doubled(names: list[str]) -> None:
    """As of a CSV file: a row would hold the last of them. Raises ImportRefused."""
    for name, count in Counter(names).items():
        if count > 1:
            raise ImportRefused(
                _("Two columns of the file are named “%(name)s”; rename one of them.")
                % {"name": shown(name)[:40]}
            )


def _rows_of(batches: Iterator[Any], longest: int, unpacked: Unpacked) -> Numbered:
    import pyarrow as pa

    number = 0
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            for rows in _unpacked(batch, longest, unpacked):
                for row in rows:
                    number += 1
                    yield number, _checked(row)
        except Damaged as damaged:
            yield number + 1, BadRow(str(damaged))
            return
        except (pa.ArrowException, *_FAULTS) as fault:
            what = {"what": _first_line(fault)}
            yield (
                number + 1,
                BadRow(
                    _("the file is damaged from here on: %(what)s; send it again")
                    % what
                ),
            )
            return


def _unpacked(
    batch: Any, longest: int, unpacked: Unpacked
) -> Iterator[list[Row | BadRow]]:
    """The batch's rows in pieces that come to `longest` bytes at most."""
    import pyarrow as pa

    pieces = [batch.slice(start, BATCH) for start in range(0, batch.num_rows, BATCH)]
    pieces.reverse()
    while pieces:
        piece = pieces.pop()
        size = sum(map(_size, piece.columns))
        if size <= longest:
            unpacked.add(size)
            columns = [_plain(column) for column in piece.columns]
            plain = pa.RecordBatch.from_arrays(columns, names=piece.schema.names)
            yield plain.to_pylist()
        elif piece.num_rows == 1:
            most = {"most": longest}
            yield [BadRow(_("longer than %(most)d bytes; shorten or split it") % most)]
        else:
            half = piece.num_rows // 2
            pieces += [piece.slice(half), piece.slice(0, half)]


def _size(array: Any) -> int:
    """Bytes that an Arrow array comes to, at most; what is shared counts at each use."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import compute, types

    kind, least = array.type, 8 * len(array)
    if isinstance(kind, pa.BaseExtensionType):
        return _size(array.storage)
    if types.is_dictionary(kind):
        words, uses = array.dictionary, array.indices.drop_null()
        if _is_text(words.type):
            lengths = compute.binary_length(words).take(uses)
            return least + (compute.sum(lengths).as_py() or 0)
        counts = compute.value_counts(uses).to_pylist()
        return least + sum(
            one["counts"] * _size(words.slice(one["values"], 1)) for one in counts
        )
    if types.is_string_view(kind) or types.is_binary_view(kind):
        # Sixteen bytes a view, the length first.
        lengths = np.frombuffer(array.buffers()[1], np.int32)[::4]
        lengths = lengths[array.offset : array.offset + len(array)]
        return least + int(lengths.clip(0).sum(dtype=np.int64))
    if types.is_struct(kind):
        return least + sum(map(_size, array.flatten()))
    if types.is_map(kind):
        pairs = pa.struct([kind.key_field, kind.item_field])
        return least + _size(array.cast(pa.list_(pairs)))
    if _is_list(kind):
        return least + _size(array.flatten())
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        return least + len(array) * _size(array.values)
    if types.is_run_end_encoded(kind):
        return least + len(array) * _size(array.values)
    return max(least, array.nbytes)


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
    )


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return (
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
    )


def _plain(array: Any) -> Any:
    """Without dictionaries, and with times as text: Python's have no nanoseconds
    (pandas has), end with the year 9999 and fail on a zone that this machine lacks."""
    in_utc = _changed(array.type, _zoneless)
    plain = _changed(in_utc, _timeless)
    return array if plain == array.type else array.cast(in_utc).cast(plain)


def _zoneless(kind: Any) -> Any:
    import pyarrow as pa

    is_local = pa.types.is_timestamp(kind) and kind.tz is not None
    return pa.timestamp(kind.unit, "UTC") if is_local else kind


def _timeless(kind: Any) -> Any:
    import pyarrow as pa

    is_time = pa.types.is_temporal(kind) and not pa.types.is_interval(kind)
    return pa.string() if is_time else kind


def _changed(kind: Any, change: Any) -> Any:
    """The type with each type in it changed."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(kind):
        return _changed(kind.value_type, change)
    if types.is_struct(kind):
        return pa.struct([f.with_type(_changed(f.type, change)) for f in kind])
    if types.is_map(kind):
        return pa.map_(
            _changed(kind.key_type, change), _changed(kind.item_type, change)
        )
    if not _is_list(kind):
        return change(kind)
    value = kind.value_field.with_type(_changed(kind.value_type, change))
    if types.is_fixed_size_list(kind):
        return pa.list_(value, kind.list_size)
    return pa.large_list(value) if types.is_large_list(kind) else pa.list_(value)


def _checked(row: Row | BadRow) -> Row | BadRow:
    if isinstance(row, BadRow):
        return row
    if depth(row) > MAX_ROW_DEPTH:
        return BadRow(_("nested too deeply; a row is a flat object"))
    return {name: _said(value) for name, value in row.items()}


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
