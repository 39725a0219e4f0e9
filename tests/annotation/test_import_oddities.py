"""Files as pandas, jq and people write them, which are neither JSONL nor plain CSV."""

import csv
import io
import json
import random
import tarfile
import textwrap
import zipfile

import pyarrow
import pytest
from pyarrow import parquet

from annotation import exporting
from annotation.export_rows import pair_table
from annotation.files import tables
from annotation.files.columns import PAIRS
from annotation.files.faults import BadRow
from annotation.files.lines import Lines, Unpacked, buffered
from annotation.files.parts import Reading
from annotation.files.writing import written
from annotation.importing import import_pairs, import_prompts
from annotation.models import LabelledAnswer, Prompt
from annotation.queries import standing_pairs
from tests.factories import make_project

pytestmark = pytest.mark.django_db

PYTHONS = "[{'role': 'user', 'content': 'Hi'}]"
# Of an array of two: numpy puts no comma between them.
NUMPYS = (
    "[{'content': 'Hi', 'role': 'user'}\n {'content': \"It's\", 'role': 'assistant'}]"
)


def rows(text, longest=1000):
    stream = buffered(io.BytesIO(text.encode()), Unpacked(10**9))
    return list(tables.text_rows(Lines(stream, longest), None))


def table(*records):
    file = io.StringIO()
    csv.writer(file).writerows(records)
    return io.BytesIO(file.getvalue().encode())


def told(report):
    return [(bad.line, bad.reason) for bad in report.rejected]


# --- JSON over several lines -------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 8_190, 65_535, 65_536])
def test_objects_that_are_printed_for_the_eye_are_rows(size):
    wanted = [{"prompt": "é" * size, "n": n, "x": [{"y": -1.5e10}]} for n in range(3)]
    printed = [json.dumps(row, indent=2, ensure_ascii=False) for row in wanted]
    found = rows("\n".join(printed), longest=1_000_000)
    assert [row for _line, row in found] == wanted
    # Nine lines an object: {, prompt, n, x, {, y, }, ], }.
    assert [line for line, _row in found] == [1, 10, 19]


def test_one_printed_object_is_one_prompt(project):
    report = import_prompts(
        project, io.BytesIO(b'\r\n{\r\n  "prompt": "Why?"\r\n}\r\n'), "jsonl"
    )
    assert (report.accepted, report.rejected) == (1, [])


def test_a_printed_object_that_is_broken_ends_the_file_after_the_good_ones():
    (_line, good), (line, bad) = rows('{\n  "prompt": "a"\n}\n{\n  "prompt": oops\n}\n')
    assert good == {"prompt": "a"}
    assert line == 4 and isinstance(bad, BadRow) and "column 13" in str(bad)


def test_a_brace_alone_in_the_middle_of_lines_is_one_bad_line():
    found = rows('{"prompt": "a"}\n{\n{"prompt": "b"}\n')
    assert [isinstance(row, BadRow) for _line, row in found] == [False, True, False]


def test_lists_count_their_lines_from_the_files_first():
    found = rows('\n\n\n[\n{"prompt": "a"},\n"x"\n]\n')
    assert [line for line, _row in found] == [5, 6]


def test_what_is_broken_in_a_long_list_is_told_not_called_too_long():
    text = (
        '[{"prompt": "a"},\n{"prompt": oops},\n' + '{"prompt": "b"},\n' * 1000 + "{}]"
    )
    _good, (line, bad) = rows(text)
    assert line == 2 and "not JSON" in str(bad) and "longer" not in str(bad)


def test_a_text_without_end_in_a_list_is_too_long_in_bounded_memory():
    _good, (line, bad) = rows('[{"prompt": "a"},\n{"prompt": "' + "b" * 200_000)
    assert line == 2 and "longer than 1000 bytes" in str(bad)


@pytest.mark.parametrize("blank", [0, 3, 20_000])
def test_records_are_counted_from_the_files_first_line(blank):
    found = rows("\n" * blank + "sep=;\n\nprompt;id\na;1\nb;2\n")
    assert [line for line, _row in found] == [blank + 4, blank + 5]


# --- Chats in the cells of CSV -----------------------------------------------------------
@pytest.mark.parametrize("cell", [PYTHONS, NUMPYS, f" {PYTHONS}\n"])
def test_messages_as_python_writes_them_are_no_text(project, cell):
    prompts = import_prompts(project, table(["prompt"], ["one"], [cell], ["two"]))
    pairs = import_pairs(
        project,
        table(
            ["prompt", "chosen", "rejected"],
            [cell, "yes", "no"],
            ["Why?", cell, "no"],
            ["Why?", "yes", "no"],
        ),
    )
    labelled = import_pairs(project, table(["messages", "label"], [cell, "true"]))

    assert (prompts.accepted, pairs.accepted, labelled.accepted) == (2, 1, 0)
    ((line, reason),) = told(prompts)
    assert line == 3 and "“prompt” holds messages as Python writes them" in reason
    (_line, first), (line, second) = told(pairs)
    assert "“prompt”" in first and "“chosen”" in second and "json.dumps" in second
    assert "“messages”" in told(labelled)[0][1]


def test_a_column_that_is_not_read_may_hold_what_it_will(project):
    names = ["prompt", "chosen", "rejected", "messages", "note"]
    report = import_pairs(project, table(names, ["Q", "a", "b", PYTHONS, PYTHONS]))
    assert (report.accepted, report.rejected) == (1, [])


@pytest.mark.parametrize(
    "text",
    [
        f"{PYTHONS} What is wrong with this?",
        "[{'name': 'Ann'}]",
        "[{'role': 'user'",
        '[{"role": "user"},',
    ],
)
def test_a_text_that_only_begins_like_messages_is_a_text(project, text):
    assert import_prompts(project, table(["prompt"], [text])).accepted == 1
    assert Prompt.objects.get().messages == [{"role": "user", "content": text}]


def test_a_text_that_is_such_messages_comes_back_from_our_own_table(project):
    line = json.dumps({"prompt": PYTHONS, "chosen": NUMPYS, "rejected": "no"})
    import_pairs(project, io.BytesIO(line.encode()))
    exported = b"".join(written(pair_table(standing_pairs(project)), PAIRS, "csv"))
    other = make_project()
    report = import_pairs(other, io.BytesIO(exported))
    assert (report.accepted, report.rejected) == (1, [])
    for of in (project, other):
        pair = standing_pairs(of).get()
        assert pair.prompt.messages[0]["content"] == PYTHONS
        assert pair.chosen.text == NUMPYS


@pytest.mark.parametrize("indent", [None, 2])
def test_messages_of_json_are_read_however_they_are_spaced(project, indent):
    spoken = [{"role": "user", "content": "Hi"}]
    sharegpt = [{"from": "human", "value": "Hi"}]
    cells = [
        textwrap.indent(json.dumps(x, indent=indent), " ") for x in (spoken, sharegpt)
    ]
    names = ["prompt", "conversations", "chosen", "rejected"]
    report = import_pairs(
        project, table(names, [cells[0], "", "a", "b"], ["", cells[1], "c", "d"])
    )
    assert (report.accepted, report.rejected) == (2, [])
    assert [p.messages for p in Prompt.objects.all()] == [spoken]


# --- Fields of a row ---------------------------------------------------------------------
@pytest.mark.parametrize("history", [5, True, "ab", [["q"]], [["q", "a", "x"]], [[]]])
def test_a_history_that_is_none_costs_its_own_row_alone(project, history):
    row = {"instruction": "Why?", "chosen": "a", "rejected": "b"}
    lines = [json.dumps({**row, "history": h}) for h in (history, [["q", "a"]])]
    report = import_pairs(project, io.BytesIO("\n".join(lines).encode()))
    assert report.accepted == 1
    ((line, reason),) = told(report)
    assert line == 1 and "“history” must be" in reason


def test_a_labelled_answer_keeps_the_system_prompt_beside_its_question(project):
    rows = [
        {"system": "Be brief.", "prompt": "Why?", "completion": said, "label": is_good}
        for said, is_good in (("So.", True), ("Well …", False), ("Hm.", True))
    ]
    report = import_pairs(
        project, io.BytesIO("\n".join(map(json.dumps, rows)).encode())
    )
    assert (report.accepted, report.labelled, report.rejected) == (2, 1, [])
    assert Prompt.objects.get().messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
    ]
    pair = standing_pairs(project).get()
    exported = [json.loads(line) for line in exporting.jsonl([pair], "kto")]
    alone = exporting.labelled_alone(LabelledAnswer.objects.all())
    assert [*exported, *alone] == rows


# --- How far it is -----------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "zip of parquet"])
def test_the_share_of_an_archive_is_that_of_its_rows(tmp_path, kind):
    chance = random.Random(1)
    texts = ["the same " * 20 + chance.randbytes(40).hex() for _row in range(9000)]
    lines = [json.dumps({"prompt": text}) for text in texts]
    data = "\n".join(lines).encode()
    path = tmp_path / "upload"
    if kind.startswith("zip"):
        suffix = "jsonl"
        if kind == "zip of parquet":
            suffix, file = "parquet", io.BytesIO()
            parquet.write_table(
                pyarrow.Table.from_pylist([json.loads(line) for line in lines]),
                file,
                row_group_size=500,
            )
            data = file.getvalue()
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in "ab":
                archive.writestr(f"{name}.{suffix}", data)
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
            for name in "ab":
                member = tarfile.TarInfo(f"{name}.jsonl")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))

    reading = Reading(path, most=10**9, longest=1000)
    shares = [reading.share for _row in reading]
    assert shares == sorted(shares)
    # Both parts hold the same: after a share of the rows, that share of the bytes.
    for row in (4500, 9000, 13_500):
        assert shares[row] == pytest.approx(row / 18_000, abs=0.12)
    assert reading.share > 0.85


# --- What is nearly JSONL ----------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"prompt": "no end', "Unterminated string starting at column 12"),
        ('{"prompt": "a\tb"}', "Invalid control character at column 14"),
        ('{"prompt" "x"}', "Expecting ':' delimiter at column 11"),
    ],
)
def test_where_a_line_is_broken_is_said_once(line, what):
    [(_number, bad)] = rows(line)
    assert str(bad) == f"not JSON: {what}; write one object per line"


@pytest.mark.parametrize("indent", [None, 2])
def test_an_object_around_the_rows_is_told_as_such(project, indent):
    rows_of = {
        import_prompts: {"prompt": "A question?"},
        import_pairs: {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
    }
    for read, row in rows_of.items():
        wrapped = json.dumps({"version": 1, "data": [row] * 2}, indent=indent)
        report = read(project, io.BytesIO(wrapped.encode()))
        assert told(report) == [
            (
                1,
                "“data” holds a list of rows; write the list alone, or each of its rows"
                " on a line",
            )
        ]
    # What is a prompt may carry what it will.
    row = {"prompt": "And this?", "like": [{"prompt": "That?"}]}
    report = import_prompts(project, io.BytesIO(json.dumps(row).encode()))
    assert (report.accepted, told(report)) == (1, [])


@pytest.mark.parametrize("header", ['{"prompt": "Why?"}\n', "prompt\nWhy?\n"])
def test_a_second_byte_order_mark_is_passed_over(header):
    assert [row for _line, row in rows("\ufeff\ufeff" + header)] == [{"prompt": "Why?"}]
