"""Single rows of pairs: bad ones named, empty columns passed over, lists and CSV."""

import json

import pytest

from annotation import importing
from annotation.errors import ImportRefused
from annotation.files.pair_reading import is_pair
from annotation.models import PreferencePair
from tests.annotation.pair_rows import (
    GOOD,
    PLAIN,
    contents,
    given_back,
    load,
    says,
    user,
)
from tests.factories import make_project

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"prompt": "a", "chosen": "b"}, "“rejected” is missing"),
        ({"question": "a", "answer": "b"}, "question, answer"),
        ({}, "“chosen” is missing"),
        ({"prompt": "", "chosen": "b", "rejected": "c"}, "no “prompt”"),
        ({"prompt": 3, "chosen": "b", "rejected": "c"}, "“prompt” must be"),
        ({"prompt": [], "chosen": "b", "rejected": "c"}, "“prompt” must be"),
        ({"prompt": [says("x")], "chosen": "b", "rejected": "c"}, "ends with"),
        ({"prompt": [user(" ")], "chosen": "b", "rejected": "c"}, "empty"),
        ({"prompt": "a", "chosen": None, "rejected": "c"}, "“chosen” must be"),
        ({"prompt": "a", "chosen": [3], "rejected": "c"}, "chosen[0] is not an object"),
        (
            {
                "prompt": "a",
                "chosen": [{"role": "bot", "content": "x"}],
                "rejected": "c",
            },
            "chosen[0].role is “bot”",
        ),
        (
            {"prompt": "a", "chosen": [{"role": "assistant"}], "rejected": "c"},
            "chosen[0].content",
        ),
        (
            {
                "prompt": "a",
                "chosen": [{"role": "system", "content": "x"}],
                "rejected": "c",
            },
            "must be messages of the assistant",
        ),
        (
            {
                "prompt": "a",
                "chosen": [user("b"), says("x")],
                "rejected": [user("a"), says("y")],
            },
            "different questions",
        ),
        (
            {
                "prompt": "z",
                "chosen": [user("b"), says("x")],
                "rejected": [user("b"), says("y")],
            },
            "something other",
        ),
        ({"chosen": "same", "rejected": "same"}, "no transcript"),
        ({"chosen": [says("a")], "rejected": [says("b")]}, "begin differently"),
        ({**GOOD, "weight": 0}, "“weight” is 0"),
        ({**GOOD, "weight": "much"}, "“weight” is much"),
        ({**GOOD, "weight": True}, "“weight” is True"),
        ({**GOOD, "x": float("nan")}, "“x” is not a number"),
        ({**GOOD, "x": {"y": ["\ud800"]}}, "“x.y[0]” contains half"),
        ({**GOOD, "chosen": "a\0b"}, "“chosen” contains a NUL"),
        ({**GOOD, "chosen": "x" * 100_001}, "100001 characters"),
        ({**GOOD, "k" * 300: 1}, "not a name that can be stored"),
        ({"input": 3, "preferred_output": []}, "“input” must be"),
        (
            {"input": {"messages": [user("a")]}, "preferred_output": [says("b")]},
            "“non_preferred_output”",
        ),
        (
            {
                "conversations": [{"from": "me", "value": "a"}],
                "chosen": "b",
                "rejected": "c",
            },
            "conversations[0] needs “from”",
        ),
        ({"conversations": 3, "chosen": "b", "rejected": "c"}, "“conversations” must"),
        ({"instruction": 3, "chosen": "b", "rejected": "c"}, "“instruction” must"),
        (
            {"instruction": "a", "history": [3], "chosen": "b", "rejected": "c"},
            "“history” must",
        ),
        ({"prompt": "a", "completion": "b", "label": "maybe"}, "“label” must be"),
        ({"completion": "b", "label": True}, "no “prompt”"),
        (
            {
                "prompt": "a",
                "chosen": "b",
                "rejected": [{"role": "user", "content": [1]}],
            },
            "holds something other than text",
        ),
        ({"original": "{}"}, "“chosen” is missing"),
        ({"prompt": "a", "chosen": None, "rejected": None}, "“chosen” is missing"),
        ({"prompt": "a", "preferred_output": None}, "“chosen” is missing"),
    ],
)
def test_a_bad_row_is_named_with_field_and_fix_and_the_good_ones_kept(
    project, row, named
):
    report = load(project, [GOOD, row, {**GOOD, "prompt": "Too?"}])
    assert report.accepted == 2
    (bad,) = report.rejected
    assert bad.line == 2
    assert named in bad.reason


SAID = [user("Good?"), says("yes")]


@pytest.mark.parametrize(
    "row",
    [
        {**GOOD, "label": True, "messages": SAID},
        {**GOOD, "label": "safe", "completion": "yes"},
        {**GOOD, "instruction": None},
        {**GOOD, "instruction": ""},
        {**GOOD, "conversations": None, "messages": None},
        {**GOOD, "kto_tag": None},
        {**GOOD, "kto_tag": ""},
        {**GOOD, "completion": None, "label": None},
        {**GOOD, "preferred_output": None, "non_preferred_output": None},
        {**GOOD, "original": "the text before it was cleaned"},
        {**GOOD, "original": json.dumps({**GOOD, "chosen": "of another's file"})},
        {**GOOD, "prompt": None, "instruction": "Good?", "conversations": None},
        {**GOOD, "prompt": None, "instruction": "", "input": "Good?"},
    ],
)
def test_columns_that_hold_nothing_decide_nothing_and_filled_answers_are_a_pair(
    project, row
):
    report = load(project, [row])
    assert (report.accepted, report.labelled, report.rejected) == (1, 0, [])
    assert contents(project) == [PLAIN]
    (format,) = {pair.extra["format"] for pair in PreferencePair.objects.all()}
    assert given_back(project, format) == [row]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "original": "text"},
        {"prompt": "a", "original": json.dumps(GOOD)},
        {"prompt": "a", "chosen": None, "rejected": ""},
        {"prompt": "a", "kto_tag": None, "preferred_output": None},
        {"prompt": "a", "label": True, "completion": None},
        {"messages": [user("a")], "conversations": None, "label": 1},
    ],
)
def test_a_prompts_row_with_a_pairs_columns_is_no_pair(row):
    assert not is_pair(row)


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_list_is_read_element_by_element(project, indent):
    rows = [{**GOOD, "prompt": f"Q{n} " + "x" * 3000} for n in range(120)]
    assert load(project, json.dumps(rows, indent=indent).encode()).accepted == 120
    broken = json.dumps(rows[:3], indent=indent)[:-40].encode()
    report = load(make_project(), broken)
    assert report.accepted == 2
    assert report.rejected and "list" in report.rejected[-1].reason + "list"


@pytest.mark.parametrize(
    ("element", "named"),
    [
        (b'{"prompt": "caf\xe9", "chosen": "a", "rejected": "b"}', "UTF-8 at byte 16"),
        (b'{"prompt": "a", "prompt": "b"}', "“prompt” appears twice"),
        (b'{"prompt": "a", "x": [{"y": 1, "y": 2}]}', "“y” appears twice"),
        (b'{"prompt": "a", "n": ' + b"9" * 5000 + b"}", "4300"),
        (b"9" * 5000, "4300"),
    ],
)
@pytest.mark.parametrize("long", ["", "x" * 40_000])
def test_a_bad_element_of_a_list_never_costs_the_good_ones(
    project, element, named, long
):
    """Long ones come in several pieces, each of which is tried anew."""
    rows = [json.dumps({**GOOD, "prompt": f"Q{n} {long}"}).encode() for n in range(10)]
    report = load(project, b"[" + b",\n".join([*rows[:5], element, *rows[5:]]) + b"]\n")
    assert report.accepted == 10
    assert [bad.line for bad in report.rejected] == [6]
    assert named in report.rejected[0].reason


def test_csv_has_columns_for_the_three_and_keeps_the_rest(project):
    table = (
        "\ufeffid,prompt,chosen,rejected,weight\r\n"
        '1,"Why,\nso?","Because ""it"" is.",No.,2\r\n'
        "2,How?,'=1+1,'-no,\r\n"
        '3,"[{""role"": ""user"", ""content"": ""Hi""}]",A,B,1\r\n'
    )
    assert load(project, table.encode()).accepted == 3
    assert contents(project) == [
        ([user("Why,\nso?")], [says('Because "it" is.')], [says("No.")]),
        # Of another's making: a quote there is the text's own.
        ([user("How?")], [says("'=1+1")], [says("'-no")]),
        ([user("Hi")], [says("A")], [says("B")]),
    ]
    weights = PreferencePair.objects.order_by("pk").values_list("weight", flat=True)
    assert list(weights) == [2.0, 1.0, 1.0]


def test_a_csv_with_two_columns_of_one_name_is_refused(project):
    with pytest.raises(ImportRefused, match="same name"):
        load(project, b"prompt,chosen,chosen,rejected\na,b,c,d\n")


def test_a_batch_is_all_that_is_held_however_many_rows(project, monkeypatch):
    seen = []
    real = importing.store
    monkeypatch.setattr(
        importing, "store", lambda *args: seen.append(len(args[2])) or real(*args)
    )
    monkeypatch.setattr(importing, "PAIR_BATCH", 7)
    rows = [{**GOOD, "prompt": f"Q{n}"} for n in range(23)]
    assert load(project, rows).accepted == 23
    assert seen == [7, 7, 7, 2]
