"""Prompts from files: good rows kept, bad ones named by line, field and fix."""

import csv
import io
import json
import tracemalloc
from io import BytesIO

import pytest
from django.core.management import CommandError, call_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotation import importing
from annotation.errors import ImportRefused
from annotation.importing import import_prompts
from annotation.models import Prompt
from annotation.storing import is_held_out
from annotation.texts import sha256_of
from tests.factories import make_project, make_prompt

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


def load(project, text, format=None):
    data = text if isinstance(text, bytes) else text.encode()
    return import_prompts(project, BytesIO(data), format)


def prompts(project):
    return [p.messages for p in Prompt.objects.filter(project=project).order_by("pk")]


def user(text):
    return [{"role": "user", "content": text}]


def test_jsonl_takes_a_text_or_messages_in_any_script(project):
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "为什么天空是蓝色的？"},
    ]
    lines = [{"prompt": "Why?"}, {"messages": chat}, {"prompt": chat[1:2], "id": 7}]
    report = load(project, "\n".join(json.dumps(row) for row in lines))

    assert (report.accepted, report.duplicates, report.rejected) == (3, 0, [])
    assert prompts(project) == [user("Why?"), chat, user("Hi")]


def test_a_quote_never_closed_is_told_and_swallows_no_line_silently(project):
    report = load(project, 'prompt\nfine\n"open\nsecond\nthird\n')
    assert prompts(project) == [user("fine")]
    ((line, reason),) = [(bad.line, bad.reason) for bad in report.rejected]
    assert line == 3 and "quotes" in reason


def test_a_comma_outside_quotes_cuts_no_text_in_two(project):
    report = load(project, "id,prompt\n1,Well, why?\n2,Why?,\n")
    assert prompts(project) == [user("Why?")]
    ((line, reason),) = [(bad.line, bad.reason) for bad in report.rejected]
    assert line == 2 and "3 columns, the header 2" in reason


def test_of_the_columns_prompt_and_messages_the_one_that_is_filled_counts(project):
    chat = json.dumps(user("two")).replace('"', '""')
    rows = f'1,one,\n2,,"{chat}"\n3,,\n4,x,"{chat}"\n'
    report = load(project, "id,prompt,messages\n" + rows)
    assert prompts(project) == [user("one"), user("two")]
    empty, both = report.rejected
    assert (empty.line, both.line) == (4, 5)
    assert "“prompt” is empty" in empty.reason and "both" in both.reason


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_both_formats_are_told_apart_with_or_without_bom_and_cr(project, bom, newline):
    jsonl = newline.join(['{"prompt": "é1"}', "", '{"prompt": "二"}'])
    table = newline.join(["id,prompt", '1,"a, ""b"""', "2,三", ""])

    assert load(project, bom + jsonl.encode()).accepted == 2
    assert load(project, bom + table.encode()).accepted == 2
    assert prompts(project) == [user("é1"), user("二"), user('a, "b"'), user("三")]


@pytest.mark.parametrize("first", ["", "\n", "sep=;\r\n", "SEP=;\n\n"])
def test_a_csv_of_a_spreadsheet_with_semicolons_is_read_as_one(project, first):
    """Where the comma is the decimal point, Excel writes these; the commas are the text's."""
    table = '"id";prompt;"a, b, c"\n1;"Well; why?";\n2;Why, then?;x\n3;one;two;three\n'
    report = load(project, first + table)
    assert prompts(project) == [user("Well; why?"), user("Why, then?")]
    (bad,) = report.rejected
    assert bad.line == 4 + first.count("\n")
    assert "4 columns, the header 3" in bad.reason


def test_columns_between_tabs_and_a_stated_separator(project):
    load(project, "id\tprompt\n1\tWell, why; then?\n")
    load(project, "sep=,\nid,prompt\n1,a;b\n")
    load(project, "tags (x;y;z),prompt\na;b,one\n")
    load(project, '"prompt";"x, y, z"\ntwo;three\n')
    load(project, "sep=\t\nprompt\n1,a;b\n")
    texts = ["Well, why; then?", "a;b", "one", "two", "1,a;b"]
    assert prompts(project) == [user(text) for text in texts]


def test_a_csv_record_over_several_lines_is_one_prompt_and_bad_ones_say_where_they_start(
    project,
):
    report = load(project, 'prompt,id\n"two\nlines",1\n"\n \n",2\n"x",3\n,4\n')

    assert prompts(project) == [user("two\nlines"), user("x")]
    assert [bad.line for bad in report.rejected] == [4, 8]
    assert all("prompt" in bad.reason for bad in report.rejected)


def test_duplicates_are_counted_within_the_file_and_against_the_database(project):
    make_prompt("known", project=project)
    make_prompt("elsewhere")
    rows = ["new", "known", "new", "elsewhere"]
    report = load(project, "".join(json.dumps({"prompt": r}) + "\n" for r in rows))

    assert (report.accepted, report.duplicates) == (2, 2)
    assert load(project, '{"prompt": "new"}').duplicates == 1


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "not JSON"),
        ('{"prompt": "a"', "column"),
        ('"prompt"', "not an object"),
        ("[1]", "not an object"),
        ("null", "not an object"),
        ("{}", "“prompt”"),
        ('{"question": "a"}', "“messages”"),
        ('{"prompt": ""}', "“prompt” is empty"),
        ('{"prompt": " \\n\\t"}', "“prompt” is empty"),
        ('{"prompt": 3}', "“prompt” must be"),
        ('{"prompt": NaN}', "“prompt” must be"),
        ('{"prompt": "a\\u0000b"}', "NUL"),
        ('{"prompt": "a\\ud800"}', "surrogate"),
        ('{"prompt": "a", "prompt": "b"}', "twice"),
        ('{"prompt": "a", "messages": []}', "both"),
        ('{"messages": "a"}', "list"),
        ('{"messages": []}', "“messages” must be a text or a list of 1 to 200"),
        ('{"messages": [3]}', "messages[0] is not an object"),
        (
            '{"messages": [{"role": "bot", "content": "a"}]}',
            "messages[0].role is “bot”",
        ),
        ('{"messages": [{"content": "a"}]}', "messages[0].role"),
        ('{"messages": [{"role": ["user"], "content": "a"}]}', "messages[0].role"),
        ('{"messages": [{"role": "user"}]}', "messages[0].content"),
        ('{"messages": [{"role": "user", "content": " "}]}', "messages[0].content"),
        (
            '{"messages": [{"role": "user", "content": "a", "name": "x"}]}',
            "messages[0] has “name”",
        ),
        (
            '{"messages": [{"role": "user", "content": "a"},'
            ' {"role": "assistant", "content": "b"}]}',
            "the last message is of role “assistant”",
        ),
        (
            '{"messages": [{"role": "user", "content": "a"},'
            ' {"role": "system", "content": "b"}, {"role": "user", "content": "c"}]}',
            "messages[1].role is “system”",
        ),
        ('{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"prompt": ' + "9" * 5000 + "}", "not JSON"),
        ('{"prompt": "' + "x" * 100_001 + '"}', "100001 characters"),
        ('{"prompt": "' + "x" * 2_000_000 + '"}', "bytes"),
        (b'{"prompt": "\xff"}', "not UTF-8 at byte 13"),
        (b'{"prompt": "a\x00b"}', "not JSON"),
    ],
)
def test_a_bad_line_is_named_and_the_good_ones_kept(project, line, named):
    line = line if isinstance(line, bytes) else line.encode()
    report = load(project, b'{"prompt": "good"}\n' + line + b'\n{"prompt": "too"}\n')

    assert prompts(project) == [user("good"), user("too")]
    (bad,) = report.rejected
    assert bad.line == 2
    assert named in bad.reason


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (b"1", "column"),
        (b"1,\xff\xfe", "UTF-8"),
        (b"1,a\x00b", "NUL"),
        (b"1,", "“prompt” is empty"),
        (b"1," + b"x" * 200_000, "200000 characters"),
        (b"1," + b"x" * 2_000_000, "bytes"),
        (b"1,a\rb", "CR alone"),
    ],
)
def test_a_bad_record_is_named_and_the_good_ones_kept(project, record, named):
    report = load(project, b"id,prompt\n0,good\n" + record + b"\n2,too\n")

    assert prompts(project) == [user("good"), user("too")]
    assert [bad.line for bad in report.rejected] == [3]
    assert named in report.rejected[0].reason


def test_a_cell_without_bound_ends_the_file_and_its_lines_are_no_prompts(
    project,
):
    """Ten characters a cell: the reader then stands inside the quotes."""
    most = csv.field_size_limit(10)
    try:
        report = load(project, 'prompt\nfine\n"1234567\n89\nten\n"\nnext\n')
    finally:
        csv.field_size_limit(most)
    assert prompts(project) == [user("fine")]
    ((line, reason),) = [(bad.line, bad.reason) for bad in report.rejected]
    assert line == 3 and "can't be told apart" in reason
    assert most >= importing.MAX_PAIR_LINE


@pytest.mark.parametrize(
    "cell",
    [
        '"{long}"',
        # It opens a cell, it closes one: what goes on is no record of its own.
        '"{long}\nof the cell\nits end"',
        '"its first line\n{long}"',
        '"{long}\na ""word"" of it\n{long}"',
    ],
)
def test_a_line_too_long_within_a_cell_makes_no_record_of_the_rest(project, cell):
    table = "prompt\nfine\n" + cell.format(long="x" * 1_200_000) + "\ntoo\n"
    report = load(project, table)
    assert prompts(project) == [user("fine"), user("too")]
    ((line, reason),) = [(bad.line, bad.reason) for bad in report.rejected]
    assert line == 3 and "bytes" in reason


@pytest.mark.parametrize(
    ("file", "named"),
    [
        (b"question,answer\na,b\n", "question, answer"),
        (b"prompt,prompt\na,b\n", "one column"),
        ('{"prompt": "a"}'.encode("utf-16"), "UTF-16"),
        ('{"prompt": "问"}'.encode("utf-16-le"), "UTF-16"),
        ("prompt\n问\n".encode("utf-16-be"), "UTF-16"),
    ],
)
def test_a_file_that_cannot_be_read_at_all_is_refused(project, file, named):
    with pytest.raises(ImportRefused) as refused:
        load(project, file)
    assert named in refused.value.message
    assert refused.value.status == 422


QUOTED = ["'-5 degrees' means what?", "'+=' and '=+': which?", "'@home' or 'at home'?"]


def test_a_quote_that_begins_a_text_of_anothers_csv_is_the_texts_own(project):
    file = io.StringIO(newline="")
    csv.writer(file).writerows([["id", "prompt"], *enumerate(QUOTED)])
    assert load(project, file.getvalue()).accepted == 3
    assert prompts(project) == [user(text) for text in QUOTED]


def test_line_ends_of_cr_alone_are_told_in_words_of_ours(project):
    for header in (b"prompt", b"question"):
        with pytest.raises(ImportRefused, match="CR alone"):
            load(project, header + b"\rone\rtwo\r", "csv")
    report = load(project, b'{"prompt": "one"}\r{"prompt": "two"}\r')
    (bad,) = report.rejected
    assert "CR alone" in bad.reason
    report = load(project, b"prompt\none\rtwo\rthree\nfour\n")
    assert prompts(project) == [user("four")]
    assert "CR alone" in report.rejected[0].reason


def test_a_header_without_end_is_refused_not_read_as_nothing(project):
    with pytest.raises(ImportRefused, match="header can't be read: longer than"):
        load(project, b"prompt\r" + b"one\r" * 300_000)


@pytest.mark.parametrize("file", ["", "\n\n", "\ufeff", "prompt\n"])
def test_an_empty_file_imports_nothing(project, file):
    assert load(project, file).rows == 0


def test_an_unknown_format_is_refused(project):
    with pytest.raises(ImportRefused):
        load(project, "", "xlsx")


def test_held_out_prompts_are_set_aside_by_their_hash_alone():
    """4,000 hashes at a share of 0.1: 400 ± 5 standard deviations of 19."""
    projects = [make_project(settings={"held_out_share": s}) for s in (0.1, 0.0, 0.5)]
    shas = [sha256_of(user(f"Question {n}?")) for n in range(4000)]
    assert 305 < sum(is_held_out(sha, 0.1) for sha in shas) < 495
    assert {sha for sha in shas if is_held_out(sha, 0.1)} <= {
        sha for sha in shas if is_held_out(sha, 0.5)
    }
    file = "".join(json.dumps({"prompt": f"Question {n}?"}) + "\n" for n in range(100))
    for project in projects:
        load(project, file)
        share = project.settings["held_out_share"]
        for prompt in project.prompts.all():
            assert prompt.is_held_out == is_held_out(prompt.sha256, share)


def test_batches_count_exactly_and_keep_the_files_order(project, monkeypatch):
    monkeypatch.setattr(importing, "BATCH", 3)
    names = [f"q{n % 7}" for n in range(20)]
    report = load(project, "".join(json.dumps({"prompt": n}) + "\n" for n in names))

    assert (report.accepted, report.duplicates) == (7, 13)
    assert prompts(project) == [user(f"q{n}") for n in range(7)]


def test_a_file_of_bad_rows_is_counted_with_bounded_reasons(project, monkeypatch):
    monkeypatch.setattr(importing, "MAX_REPORTED", 5)
    report = load(project, "{}\n" * 12)
    assert (len(report.rejected), report.rejected_more, report.rows) == (5, 7, 12)


def test_a_line_without_end_does_not_fill_the_memory(project):
    class Endless(io.RawIOBase):
        left = 64 * 1024 * 1024

        def readable(self):
            return True

        def readinto(self, buffer):
            size = min(len(buffer), self.left)
            buffer[:size] = b"x" * size
            self.left -= size
            return size

    tracemalloc.start()
    report = import_prompts(project, io.BufferedReader(Endless()), "jsonl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [bad.line for bad in report.rejected] == [1]
    assert peak < 16 * 1024 * 1024


def test_the_command_reports_as_the_page_does(project, tmp_path, capsys):
    file = tmp_path / "prompts.csv"
    file.write_text("prompt\na\n\na\n \n")
    call_command("import_prompts", "--project", project.slug, str(file))
    out, err = capsys.readouterr()
    assert out == "1 imported, 1 duplicates, 0 rejected\n"
    with pytest.raises(CommandError, match="no project “nope”"):
        call_command("import_prompts", "--project", "nope", str(file))
    with pytest.raises(CommandError, match="can't be read"):
        call_command("import_prompts", "--project", project.slug, str(tmp_path / "x"))


# --- Soup ------------------------------------------------------------------------------
SOUP = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
ANY_TEXT = st.text(st.characters(codec=None), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["prompt", "messages", "role", "content", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system", "bot"]),
        "content": ANY_TEXT,
    }
)
ROW = (
    st.fixed_dictionaries({"prompt": ANY_TEXT})
    | st.fixed_dictionaries({"messages": st.lists(MESSAGE, max_size=3)})
    | JSON
)


def check_sum(project, report, rows):
    assert report.accepted + report.duplicates + len(report.rejected) == rows
    lines = [bad.line for bad in report.rejected]
    assert lines == sorted(set(lines))
    assert all(bad.reason for bad in report.rejected)
    json.dumps([bad.reason for bad in report.rejected]).encode()


@SOUP
@given(rows=st.lists(ROW, max_size=6))
def test_json_soup_is_all_counted(project, rows):
    file = "".join(json.dumps(row) + "\n" for row in rows)
    before = Prompt.objects.count()
    report = load(project, file, "jsonl")
    check_sum(project, report, len(rows))
    assert Prompt.objects.count() == before + report.accepted


@SOUP
@given(
    rows=st.lists(
        st.tuples(ANY_TEXT.filter(lambda t: "\0" not in t), ANY_TEXT), max_size=6
    )
)
def test_csv_soup_is_all_counted(project, rows):
    file = io.StringIO(newline="")
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    writer.writerow(["x", "prompt"])
    writer.writerows(rows)
    data = file.getvalue().encode("utf-8", "surrogatepass")
    report = load(project, data, "csv")
    blank = sum(1 for row in rows if not any(value.strip() for value in row))
    check_sum(project, report, len(rows) - blank)


@SOUP
@given(
    data=st.binary(max_size=200) | ANY_TEXT.map(lambda t: t.encode("utf-8", "replace")),
    format=st.sampled_from([None, "jsonl", "csv"]),
)
def test_byte_soup_is_reported_or_refused(project, data, format):
    try:
        report = import_prompts(project, BytesIO(data), format)
    except ImportRefused as refused:
        assert refused.message
    else:
        lines = data.count(b"\n") + data.count(b"\r") + 1
        # A JSON list may hold many rows in one line.
        assert report.rows <= (len(data) if b"[" in data else lines)
