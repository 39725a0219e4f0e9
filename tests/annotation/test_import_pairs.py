"""Pairs from files of every format: told apart, kept whole, given back unchanged."""

import io
import json
import random

import pytest

from annotation import exporting, importing
from annotation.errors import ImportRefused
from annotation.files import pairing
from annotation.files.pair_reading import is_pair
from annotation.importing import import_pairs, import_prompts
from annotation.models import Completion, LabelledAnswer, PreferencePair, Prompt
from annotation.queries import sound_pairs, standing_pairs
from annotation.stock import is_wanting
from tests.factories import make_comparison, make_completion, make_pair, make_project

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


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

TRL = [
    {"prompt": "为什么?", "chosen": "因为。", "rejected": "不知道。"},
    {
        "prompt": [SYSTEM, user("Why?")],
        "chosen": [says("So.")],
        "rejected": [says("No.")],
        "id": "a-1",
        "weight": 0.5,
        "meta": {"source": "x", "score": 1.0, "big": 12345678901234567890},
    },
    # Without a prompt: what both begin with.
    {
        "chosen": [user("Hi"), says("Hello"), user("Why?"), says("So.")],
        "rejected": [user("Hi"), says("Hello"), user("Why?"), says("No.")],
    },
    # As UltraFeedback has it: the prompt again inside the answers.
    {
        "prompt": "How?",
        "chosen": [user("How?"), says("So.")],
        "rejected": [user("How?"), says("No.")],
        "score_chosen": 8.5,
    },
    # As Anthropic's HH has it: transcripts.
    {
        "chosen": "\n\nHuman: What?\n\nAs I said.\n\nAssistant: This.",
        "rejected": "\n\nHuman: What?\n\nAs I said.\n\nAssistant: That.",
    },
    {"system": "Be kind.", "prompt": "Who?", "chosen": "Me.", "rejected": "You."},
    {"prompt": "One?", "chosen": says("A dict."), "rejected": says("Another.")},
]
OPENAI = [
    {
        "input": {
            "messages": [SYSTEM, user("How warm is it?")],
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "parallel_tool_calls": True,
        },
        "preferred_output": [CALL, RESULT, says("18 degrees.")],
        "non_preferred_output": [says("Warm.")],
    },
    {
        "input": {"messages": [user("Q"), CALL, RESULT]},
        "preferred_output": [{"role": "assistant", "content": "A", "weight": 1}],
        "non_preferred_output": [
            {"role": "assistant", "content": [{"type": "text", "text": "B"}]}
        ],
        "metadata": None,
    },
]
LLAMAFACTORY = [
    {
        "conversations": [
            {"from": "human", "value": "Q1"},
            {"from": "gpt", "value": "A1"},
            {"from": "human", "value": "Q2"},
        ],
        "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"},
        "system": "S",
    },
    {"instruction": "Do", "input": "this", "chosen": "good", "rejected": "bad"},
    {
        "instruction": "Do it",
        "chosen": "good",
        "rejected": "bad",
        "history": [["a", "b"]],
    },
    # As its demo dpo_en_demo.json has them.
    {
        "conversations": [
            {"from": "system", "value": "S"},
            {"from": "human", "value": "Q3"},
        ],
        "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"},
    },
    # With the tags of its demos for chats: role and content.
    {
        "messages": [SYSTEM, user("Q4")],
        "chosen": says("good"),
        "rejected": says("bad"),
    },
    {"instruction": "Do", "chosen": "a", "rejected": "b", "system": "S", "input": ""},
]
KTO = [
    {"prompt": "Q", "completion": "good", "label": True, "id": 1},
    {"prompt": [user("R")], "completion": [says("bad")], "label": False},
    {"prompt": "Q", "completion": "bad", "label": False},
    {"prompt": [user("R")], "completion": [says("good")], "label": True, "by": "x"},
]
# As LLaMA-Factory's README has them, its kto_en_demo.json, and a set of the hub's that
# its dataset_info.json names.
KTO_OF_LLAMAFACTORY = [
    {
        "conversations": [
            {"from": "human", "value": "Q"},
            {"from": "gpt", "value": "good"},
        ],
        "kto_tag": True,
    },
    {"messages": [user("Q"), says("bad")], "label": False},
    {"completion": [user("R"), says("good")], "label": True, "rating": 5},
    {"instruction": "R", "input": "", "output": "bad", "kto_tag": False},
]


@pytest.mark.parametrize(
    ("format", "rows"),
    [("trl", TRL), ("openai", OPENAI), ("llamafactory", LLAMAFACTORY)],
)
def test_what_comes_in_goes_out_again_unchanged(project, format, rows):
    report = load(project, rows)
    assert (report.accepted, report.rejected) == (len(rows), [])
    assert given_back(project, format) == rows
    kinds = {pair.kind for pair in PreferencePair.objects.all()}
    assert kinds == {"imported"}


def test_labelled_answers_are_joined_by_prompt_and_go_out_as_they_were(project):
    report = load(project, KTO)
    assert (report.accepted, report.rejected) == (2, [])
    back = given_back(project, "kto")
    assert sorted(back, key=str) == sorted(KTO, key=str)
    assert contents(project)[0] == ([user("Q")], [says("good")], [says("bad")])


def test_labelled_answers_of_llamafactory_come_in_and_go_out_as_they_were(project):
    report = load(project, KTO_OF_LLAMAFACTORY)
    assert (report.accepted, report.rejected) == (2, [])
    assert given_back(project, "kto") == KTO_OF_LLAMAFACTORY
    assert contents(project) == [
        ([user("Q")], [says("good")], [says("bad")]),
        ([user("R")], [says("good")], [says("bad")]),
    ]


def test_a_chat_that_ends_with_the_user_is_a_prompt_whatever_its_label(project):
    report = load(project, [{"messages": [user("Q")], "label": True}])
    assert "is no pair" in report.rejected[0].reason


def test_of_two_system_prompts_llamafactorys_message_counts(project):
    row = {
        "conversations": [
            {"from": "system", "value": "told"},
            {"from": "human", "value": "Q"},
        ],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
        "system": "of the column",
    }
    load(project, [row])
    ((prompt, *_answers),) = contents(project)
    assert prompt == [{"role": "system", "content": "told"}, user("Q")]
    assert given_back(project, "llamafactory") == [row]


def in_order(rows):
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def labelled(project):
    """The rows that labelled answers without a pair go out as."""
    return list(
        exporting.labelled_alone(LabelledAnswer.objects.filter(project=project))
    )


def test_two_huge_weights_have_a_mean_that_is_a_number(project):
    rows = [
        {"prompt": "Q", "completion": "a", "label": True, "weight": 1.7e308},
        {"prompt": "Q", "completion": "b", "label": False, "weight": 1.5e308},
    ]
    assert load(project, rows).accepted == 1
    assert PreferencePair.objects.get().weight == pytest.approx(1.6e308)


def test_a_labelled_answer_without_a_partner_is_kept_and_no_pair(project, monkeypatch):
    more = {"prompt": "Q", "completion": "worse", "label": False, "weight": 2}
    good = {"prompt": "T", "completion": "also good", "label": True, "by": "x"}
    report = load(project, [good, *KTO, more])
    assert (report.accepted, report.labelled, report.rejected) == (4, 2, [])
    assert PreferencePair.objects.filter(project=project).count() == 2
    assert in_order(labelled(project)) == in_order([good, more])
    again = load(project, [good, *KTO, more])
    assert (again.accepted, again.duplicates) == (0, 4)
    # What a pair says is no news, alone either.
    assert load(project, KTO[:1]).duplicates == 1
    # Those that wait are bounded; the one that waits longest is let go.
    monkeypatch.setattr(pairing, "WAITING", 1)
    other = make_project()
    assert load(other, [KTO[0], good, KTO[2]]).labelled == 3
    assert not PreferencePair.objects.filter(project=other).exists()


def test_answers_that_nobody_compared_are_not_joined(project):
    """Rows of an export of ours say what belongs together; by prompt alone, the good
    answers of the tie would be joined to the bad ones of the both-bad."""

    def row(id, completion, label):
        return {"id": id, "prompt": "Q", "completion": completion, "label": label}

    rows = [
        row("7-chosen", "edited", True),
        row("8-chosen", "good", True),
        row("8-rejected", "bad", False),
        row("tie-1-a", "fine", True),
        row("tie-1-b", "fine, too", True),
        row("both_bad-2-a", "awful", False),
        row("both_bad-2-b", "awful, too", False),
    ]
    random.Random(2).shuffle(rows)
    report = load(project, rows)
    assert (report.accepted, report.labelled) == (6, 5)
    assert contents(project) == [([user("Q")], [says("good")], [says("bad")])]
    back = [*given_back(project, "kto"), *labelled(project)]
    assert in_order(back) == in_order(rows)


def test_formats_are_told_apart_row_by_row(project):
    rows = [
        row
        for four in zip(TRL, OPENAI * 4, LLAMAFACTORY * 3, strict=False)
        for row in four
    ]
    random.Random(1).shuffle(rows)
    mixed = [*rows[:2], *KTO, *rows[2:]]
    unique = {json.dumps(row) for row in mixed}
    report = load(project, mixed)
    assert report.rejected == []
    assert report.accepted == len(unique) - 2  # Four labelled answers are two pairs.
    formats = {pair.extra["format"] for pair in PreferencePair.objects.all()}
    assert formats == {"trl", "openai", "llamafactory", "kto"}


def test_the_same_again_changes_nothing_whatever_its_form(project):
    rows = [*TRL, *OPENAI, *LLAMAFACTORY]
    first = load(project, rows)
    before = list(PreferencePair.objects.order_by("pk").values())
    answers = Completion.objects.count()
    again = load(project, rows)
    assert (again.accepted, again.duplicates) == (0, first.accepted)
    for format in ("trl", "openai", "kto"):
        same = load(project, given_back(project, format))
        assert (same.accepted, same.rejected) == (0, []), format
    assert list(PreferencePair.objects.order_by("pk").values()) == before
    assert Completion.objects.count() == answers


def test_what_was_judged_here_and_exported_is_no_new_pair(project):
    sampling = {"system_prompt": "Be kind.", "max_tokens": 9}
    a = make_completion("A good answer.", prompt=None, sampling=sampling)
    project = a.prompt.project
    make_pair(comparison=make_comparison(a=a))
    make_pair(project=project)
    rows = given_back(project, "trl")
    assert load(project, rows).duplicates == 2
    other = make_project()
    assert load(other, rows).accepted == 2
    assert contents(other) == contents(project)


def test_pairs_bring_prompts_that_nobody_is_asked_until_they_are_imported(project):
    project.settings = {"stock": 3, "held_out_share": 0.5}
    project.save()
    rows = [{"prompt": f"Q{n}", "chosen": "yes", "rejected": "no"} for n in range(40)]
    load(project, rows)
    prompts = Prompt.objects.filter(project=project)
    assert prompts.count() == 40 and not prompts.filter(is_asked=True).exists()
    assert 0 < prompts.filter(is_held_out=True).count() < 40
    assert not is_wanting(project)
    report = import_prompts(project, io.BytesIO(b'{"prompt": "Q1"}\n{"prompt": "new"}'))
    assert (report.accepted, report.duplicates) == (2, 0)
    assert is_wanting(project)
    PreferencePair.objects.update(state="accepted")
    held_out = prompts.filter(is_held_out=True, pairs__isnull=False).count()
    assert sound_pairs(project).count() == 40 - held_out


GOOD = {"prompt": "Good?", "chosen": "yes", "rejected": "no"}


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
            "something else",
        ),
        ({"chosen": "same", "rejected": "same"}, "no transcript"),
        ({"chosen": [says("a")], "rejected": [says("b")]}, "begin differently"),
        ({**GOOD, "weight": 0}, "“weight” is 0"),
        ({**GOOD, "weight": "much"}, "“weight” is much"),
        ({**GOOD, "weight": True}, "“weight” is True"),
        ({**GOOD, "x": float("nan")}, "“x” is no number"),
        ({**GOOD, "x": {"y": ["\ud800"]}}, "“x.y[0]” contains half"),
        ({**GOOD, "chosen": "a\0b"}, "“chosen” contains a NUL"),
        ({**GOOD, "chosen": "x" * 100_001}, "100001 characters"),
        ({**GOOD, "k" * 300: 1}, "no name that can be kept"),
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
            "holds what is no text",
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


PLAIN = ([user("Good?")], [says("yes")], [says("no")])
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
    "rest",
    [{}, {"chosen": None, "rejected": None}, {"chosen": "", "rejected": ""}],
)
@pytest.mark.parametrize(
    ("label", "bad"),
    [(True, False), (1, 0), (1.0, 0.0), ("1.0", "0.0"), ("TRUE", "FALSE")],
)
def test_labels_are_told_as_json_csv_and_tables_with_nulls_write_them(
    project, label, bad, rest
):
    rows = [
        {"prompt": "Good?", "completion": "yes", "label": label, **rest},
        {"prompt": "Good?", "completion": "no", "kto_tag": bad, "label": None, **rest},
    ]
    assert load(project, rows).accepted == 1
    assert contents(project) == [PLAIN]


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
        (b'{"prompt": "a", "prompt": "b"}', "“prompt” is there twice"),
        (b'{"prompt": "a", "x": [{"y": 1, "y": 2}]}', "“y” is there twice"),
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
