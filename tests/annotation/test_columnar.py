"""Parquet and Arrow: times that Python has no word for, texts used any number of times."""

import io
import sys

import pyarrow as pa
import pytest
from pyarrow import parquet

from annotation.errors import ImportRefused
from annotation.files.columnar import arrow_rows, parquet_rows
from annotation.files.faults import BadRow
from annotation.files.lines import Unpacked


class NoPandas:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pandas":
            raise ModuleNotFoundError(name)


def both(table):
    """The rows of a Parquet and of an Arrow file of the table, with its bytes unpacked."""
    file, stream = io.BytesIO(), io.BytesIO()
    parquet.write_table(table, file, compression="zstd")
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    for read, data in ((parquet_rows, file), (arrow_rows, stream)):
        unpacked = Unpacked(1024**3)
        rows = [
            row
            for _number, row in read(io.BytesIO(data.getvalue()), 4_000_000, unpacked)
        ]
        yield rows, unpacked.count


@pytest.mark.parametrize(
    ("value", "kind", "told"),
    [
        (1, pa.timestamp("ns"), "1970-01-01 00:00:00.000000001"),
        (1, pa.timestamp("us", tz="Foo/Bar"), "1970-01-01 00:00:00.000001Z"),
        (1, pa.duration("ns"), "1"),
        (1, pa.time64("ns"), "00:00:00.000000001"),
        (2**62, pa.timestamp("us"), f"<value out of range: {2**62}>"),
        (2**30, pa.date32(), f"<value out of range: {2**30}>"),
    ],
)
def test_any_time_is_a_text_without_pandas(monkeypatch, value, kind, told):
    times = pa.array([value, None], kind)
    inside = pa.StructArray.from_arrays([times], ["at"])
    table = pa.table(
        {"at": times, "list": pa.ListArray.from_arrays([0, 1, 2], times), "in": inside}
    )
    for name in [name for name in sys.modules if name.partition(".")[0] == "pandas"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NoPandas(), *sys.meta_path])
    for rows, _count in both(table):
        assert rows[0] == {"at": told, "list": [told], "in": {"at": told}}
        assert rows[1] == {"at": None, "list": [None], "in": {}}


def test_two_columns_of_one_name_are_refused_by_name():
    """Of a row's two texts the last one would have won."""
    table = pa.Table.from_arrays(
        [pa.array([text]) for text in ("a", "b", "c")], ["prompt", "chosen", "prompt"]
    )
    told = "Two columns of the file are named “prompt”; rename one of them."
    file, streams = io.BytesIO(), [io.BytesIO(), io.BytesIO()]
    parquet.write_table(table, file)
    for stream, write in zip(
        streams, (pa.ipc.new_stream, pa.ipc.new_file), strict=True
    ):
        with write(stream, table.schema) as writer:
            writer.write_table(table)
    for read, data in ((parquet_rows, file), *((arrow_rows, one) for one in streams)):
        data.seek(0)
        with pytest.raises(ImportRefused) as refused:
            next(read(data, 1000, Unpacked(1000)))
        assert refused.value.message == told


def test_a_table_without_rows_is_no_fault():
    file = io.BytesIO()
    parquet.write_table(pa.table({"prompt": pa.array([], pa.string())}), file)
    file.seek(0)
    assert list(parquet_rows(file, 1000, Unpacked(1000))) == []


@pytest.mark.parametrize("is_chat", [False, True])
def test_a_text_that_is_stored_once_counts_at_each_use(is_chat):
    """300 rows of 1 MB each, of one text; and 5 MB, which is longer than a line may be."""
    for length, is_bad in ((1_000_000, False), (5_000_000, True)):
        texts = pa.DictionaryArray.from_arrays(
            pa.array([0] * 300, pa.int32()), pa.array(["x" * length])
        )
        if is_chat:
            message = pa.StructArray.from_arrays([texts], ["content"])
            texts = pa.ListArray.from_arrays(pa.array(range(301), pa.int32()), message)
        for rows, count in both(pa.table({"prompt": texts})):
            assert len(rows) == 300
            assert all(isinstance(row, BadRow) == is_bad for row in rows)
            assert count == 0 if is_bad else 300_000_000 <= count < 301_000_000
