"""Comparisons that other tools exported: two answers and a word for the better one.

The rows of Label Studio are as its own converter (label-studio-sdk 2.1.2) wrote them, in
JSON, JSON-MIN and CSV; those of Argilla as its client (2.8.0) did.
"""

import csv
import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotation import exporting, import_jobs
from annotation.files import compared
from annotation.files.faults import BadRow
from annotation.models import LabelledAnswer, PreferencePair, Prompt
from tests.annotation.import_files import counts, done, jsonl, table
from tests.annotation.pair_rows import contents, given_back, load, says, user

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]

TASK = {"prompt": "法国的首都是？", "answer1": "巴黎。", "answer2": "我不知道。"}
OTHER = {"prompt": "And of Italy?", "answer1": "Paris.", "answer2": "Rome."}
RESPONSES = {"prompt": "Why?", "response_1": "Because.", "response_2": "No idea."}


def annotation(selected="", *, was_cancelled=False, why=""):
    result = []
    if selected:
        result.append(
            {
                "id": "x1",
                "type": "pairwise",
                "value": {"selected": selected},
                "origin": "manual",
                "to_name": "answer1,answer2",
                "from_name": "comparison",
            }
        )
    if why:
        value = {"choices": [why]}
        result.append({"type": "choices", "value": value, "from_name": "why"})
    return {"id": 1, "result": result, "was_cancelled": was_cancelled, "lead_time": 3.2}


TASKS = [
    {"id": 1, "data": TASK, "annotations": [annotation("left", why="shorter")]},
    {"id": 2, "data": OTHER, "annotations": [annotation("right"), annotation("right")]},
    {"id": 3, "data": {**OTHER, "prompt": "Skipped?"}, "annotations": []},
]
MIN = [
    {
        **data,
        "id": n,
        "comparison": [{"selected": side}],
        "annotator": 1,
        "annotation_id": n,
        "created_at": "2026-01-01T00:00:00Z",
        "lead_time": 3.2,
    }
    for n, (data, side) in enumerate([(TASK, "left"), (OTHER, "right")], start=1)
]


def as_csv(rows):
    file = io.StringIO()
    writer = csv.DictWriter(file, sorted(rows[0]), quoting=csv.QUOTE_ALL)
    writer.writeheader()
    cells = [
        {n: json.dumps(v) if isinstance(v, list) else v for n, v in row.items()}
        for row in rows
    ]
    writer.writerows(cells)
    return file.getvalue()


def answers():
    pairs = PreferencePair.objects.select_related("chosen", "rejected").order_by("pk")
    return [(pair.chosen.text, pair.rejected.text) for pair in pairs]


def test_a_project_of_label_studio_comes_in_the_right_way_round(project, receive):
    job = receive(json.dumps(TASKS), "project-1.json")
    found = import_jobs.preview(job)
    assert (job.kind, found.formats) == ("pairs", ["compared"])
    assert found.columns == ["comparison", "why", "id", *TASK]
    assert counts(done(job)) == ("done", 2, 1, 1)
    assert answers() == [("巴黎。", "我不知道。"), ("Rome.", "Paris.")]
    fault = job.faults.get()
    assert "(answer1, answer2, id 3) and no word for the better" in fault.reason
    # Somebody judges the third as well; what is in stays as it is.
    judged = [*TASKS[:2], {**TASKS[2], "annotations": [annotation("left")]}]
    assert counts(done(receive(json.dumps(judged)))) == ("done", 1, 3, 0)


def test_an_annotation_that_was_cancelled_says_nothing(project):
    task = {
        "data": TASK,
        "annotations": [annotation("right", was_cancelled=True), annotation("left")],
    }
    assert load(project, [task]).rejected == []
    assert answers() == [("巴黎。", "我不知道。")]


@pytest.mark.parametrize("name", ["x.json", "x.csv", "x.parquet"])
def test_its_flat_exports_say_the_same(project, receive, name):
    written = {"x.json": json.dumps, "x.csv": as_csv, "x.parquet": table}[name](MIN)
    assert counts(done(receive(written, name))) == ("done", 2, 0, 0)
    assert answers() == [("巴黎。", "我不知道。"), ("Rome.", "Paris.")]
    back = given_back(project, "trl")
    assert [row["lead_time"] for row in back] == (
        [3.2, 3.2] if "csv" not in name else ["3.2"] * 2
    )
    assert counts(done(receive(jsonl(back)))) == ("done", 0, 2, 0)


def test_its_tasks_are_prompts_too_where_that_is_what_is_wanted(project, receive):
    job = done(receive(json.dumps(TASKS), "project-1.json"), kind="prompts")
    assert counts(job) == ("done", 3, 1, 0)
    assert Prompt.objects.filter(is_asked=True).count() == 3


ARGILLA = {
    "id": "89c9",
    "fields": RESPONSES,
    "metadata": {"m": 1},
    "suggestions": {"preference": {"value": "response_2", "score": None, "agent": "x"}},
    "responses": {"preference": [{"value": "response_1", "user_id": "260a"}]},
    "vectors": {},
    "status": "completed",
    "_server_id": None,
}
RANKED = {
    **ARGILLA,
    "responses": {"ranking": [{"value": ["response-2", "response-1"], "user_id": "1"}]},
}
FLAT = {
    "id": "89c9",
    "status": "completed",
    "_server_id": None,
    **RESPONSES,
    "m": 1,
    "preference.responses": ["response_1", "response_2", "response_2"],
    "preference.responses.users": ["260a", "17bd", "99ff"],
    "preference.responses.status": ["submitted", "discarded", "draft"],
    "preference.suggestion": "response_2",
    "preference.suggestion.score": None,
}


@pytest.mark.parametrize(
    "row, better",
    [
        (ARGILLA, "Because."),
        (RANKED, "No idea."),
        (FLAT, "Because."),
        (
            {
                **ARGILLA,
                "responses": {
                    "rank": [
                        {
                            "user_id": "1",
                            "value": [
                                {"value": "response-1", "rank": 2},
                                {"value": "response-2", "rank": 1},
                            ],
                        }
                    ]
                },
            },
            "No idea.",
        ),
    ],
)
def test_records_of_argilla_come_in_by_what_people_said(project, row, better):
    report = load(project, [row])
    assert (report.accepted, report.rejected) == (1, [])
    assert [chosen for chosen, _rejected in answers()] == [better]


def test_a_record_nobody_has_answered_is_a_bad_line_whatever_was_suggested(project):
    rows = [{**ARGILLA, "responses": {}}, {**FLAT, "preference.responses": None}]
    report = load(project, rows)
    assert report.accepted == 0
    assert [bad.line for bad in report.rejected] == [1, 2]
    assert all("no word for the better one" in bad.reason for bad in report.rejected)


def test_people_of_two_minds_make_two_pairs_and_the_rule_has_them(project):
    said = [{"value": f"response_{n}", "user_id": f"u{n}"} for n in (1, 2)]
    load(project, [{**ARGILLA, "responses": {"preference": said}}])
    assert answers() == [("Because.", "No idea."), ("No idea.", "Because.")]


def arena(winner, **fields):
    asked = user("Why?")
    return {
        "question_id": "q1",
        "model_a": "gpt",
        "model_b": "llama",
        "winner": winner,
        "conversation_a": [asked, says("Because.")],
        "conversation_b": [asked, says("No idea.")],
        **fields,
    }


def test_votes_of_an_arena_come_in_with_their_ties_as_labelled_answers(project):
    votes = ["model_a", "model_b", "tie", "tie (bothbad)"]
    rows = [
        arena(vote, conversation_a=[user(f"Why {n}?"), says("Because.")],
              conversation_b=[user(f"Why {n}?"), says("No idea.")])
        for n, vote in enumerate(votes)
    ]  # fmt: skip
    report = load(project, rows)
    assert (report.accepted, report.labelled, report.rejected) == (6, 4, [])
    assert contents(project) == [
        ([user("Why 0?")], [says("Because.")], [says("No idea.")]),
        ([user("Why 1?")], [says("No idea.")], [says("Because.")]),
    ]
    # Equally good are two good answers, both bad two bad ones; none is joined to another.
    labels = LabelledAnswer.objects.order_by("pk").values_list("label", flat=True)
    assert list(labels) == [True, True, False, False]
    assert load(project, rows).accepted == 0
    alone = list(exporting.labelled_alone(LabelledAnswer.objects.all()))
    assert load(project, alone).duplicates == 4


@pytest.mark.parametrize(
    "columns, winner, better",
    [
        (("response_0", "response_1"), {"better_response_id": 0}, "one"),
        (("response_0", "response_1"), {"better_response_id": 1.0}, "two"),
        (("response_1", "response_2"), {"preference": 1}, "one"),
        (("response_a", "response_b"), {"choice": "B"}, "two"),
        (("answer_left", "answer_right"), {"vote": "left"}, "one"),
        (("Response A", "Response B"), {"Preference": "Response B"}, "two"),
        (("output_1", "output_2"), {"better": "second"}, "two"),
        (("output_1", "output_2"), {"winner": "A is slightly better"}, "one"),
        (("completion_a", "completion_b"), {"said": "completion_b"}, "two"),
    ],
)
def test_a_table_says_by_its_columns_which_answer_a_word_means(
    project, columns, winner, better
):
    row = {
        "question": "Q?",
        **dict(zip(columns, ("one", "two"), strict=True)),
        **winner,
    }
    assert load(project, [row]).rejected == []
    assert [chosen for chosen, _rejected in answers()] == [better]


@pytest.mark.parametrize(
    "columns, value",
    [
        (("response_a", "response_b"), 1),  # The first of 1, 2, or the second of 0, 1?
        (("response_a", "response_b"), "0"),
        (("response1", "response2"), -1),  # Scales run either way.
        (("response1", "response2"), "-2"),
        (("response1", "response2"), 0),
        (("response1", "response2"), 3),
        (("response1", "response2"), True),
        (("response1", "response2"), "gpt-4"),
        (("response1", "response2"), "none"),
        (("response1", "response2"), {"a": 1}),
    ],
)
def test_a_word_that_could_mean_either_answer_is_refused_by_name(
    project, columns, value
):
    row = {
        "prompt": "Q?",
        **dict.fromkeys(columns, "text"),
        "overall_preference": value,
    }
    report = load(project, [row, {"prompt": "R?", "chosen": "x", "rejected": "y"}])
    assert report.accepted == 1
    (bad,) = report.rejected
    assert bad.line == 1 and "“overall_preference” is" in bad.reason
    assert "either answer" in bad.reason


def test_what_an_instruction_is_about_is_asked_with_it(project):
    """AlpacaFarm's rows lost their input: the pair asked to sum up nothing."""
    asked = {"instruction": "Sum up.", "input": "Once upon a time."}
    row = {**asked, "output_1": "one", "output_2": "two", "preference": 2}
    assert load(project, [row]).rejected == []
    whole = user("Sum up.\nOnce upon a time.")
    assert contents(project) == [([whole], [says("two")], [says("one")])]


@pytest.mark.parametrize("value", [1, 2, "1", 2.0])
def test_of_a_scale_no_number_counts_as_an_answers(project, value):
    """HelpSteer3's 1 and 2 both mean response2; its 1 came in the wrong way round."""
    row = {"prompt": "Q?", "response1": "one", "response2": "two"}
    report = load(project, [{**row, "overall_preference": value}])
    assert report.accepted == 0 and "could mean either" in report.rejected[0].reason


@pytest.mark.parametrize(
    "columns, value",
    [
        (("response_0", "response_1"), [1, 2]),  # The first is first, or the second?
        (("response_1", "response_2"), [2, 3, 1]),
        (("response_1", "response_2"), ["2", "1"]),
        (("response_a", "response_b"), ["b", "a", "a"]),  # Votes, and a has more.
    ],
)
def test_a_list_that_may_be_no_order_is_refused(project, columns, value):
    row = {"prompt": "Q?", **dict.fromkeys(columns, "text"), "vote": value}
    report = load(project, [row])
    assert report.accepted == 0 and "could mean either" in report.rejected[0].reason


PAIR = {"prompt": "Q?", "chosen": "one", "rejected": "two"}


@pytest.mark.parametrize(
    "row",
    [
        {"data": PAIR, "annotations": [annotation("right")]},
        {**PAIR, "comparison": [{"selected": "right"}]},
        {"fields": PAIR, "responses": {"preference": [{"value": "rejected"}]}},
        {**PAIR, "preference.responses": ["rejected"]},
        {**PAIR, "winner": "rejected"},
    ],
)
def test_a_pair_whose_rejected_answer_won_is_not_taken_by_its_columns(project, row):
    """It came in as if nobody had compared the two."""
    report = load(project, [row])
    assert report.accepted == 0
    assert "says that “rejected” is the better" in report.rejected[0].reason


def test_its_columns_can_be_named_as_the_two_that_were_compared(project, receive):
    job = receive(jsonl([{**PAIR, "comparison": [{"selected": "right"}]}]), "x.jsonl")
    mapping = {"answer_a": "chosen", "answer_b": "rejected"}
    assert counts(done(job, "pairs", mapping)) == ("done", 1, 0, 0)
    assert answers() == [("two", "one")]


@pytest.mark.parametrize(
    "also",
    [
        {"status": "rejected", "tags": ["right"], "preference": "chosen"},
        {"data": {"k": 1}, "annotations": []},
        {"fields": {"k": 1}, "responses": {}},
        {"quality.responses": [4, 5], "quality.responses.users": ["u", "v"]},
    ],
)
def test_pairs_and_prompts_beside_columns_of_such_names_stay_what_they_were(
    project, receive, also
):
    row = {**PAIR, **also}
    report = load(project, [row])
    assert (report.accepted, report.duplicates, report.rejected) == (1, 0, [])
    assert given_back(project, "trl") == [row]
    prompts = jsonl([{"prompt": "Another?", **also}])
    assert counts(done(receive(prompts, "p.jsonl"), kind="prompts"))[3] == 0
    assert Prompt.objects.filter(is_asked=True).count() == 1


def test_words_that_differ_are_refused_until_one_is_named(project, receive):
    row = {"prompt": "Q?", "answer1": "one", "answer2": "two"}
    rows = jsonl([{**row, "preference": "answer1", "vote": "answer2"}])
    job = receive(rows, "votes.jsonl")
    found = import_jobs.preview(job)
    assert "“preference” and “vote” differ" in str(found.items[0][1])
    mapping = import_jobs.mapping_of("pairs", {"map_winner": "vote"}, found.columns)
    assert counts(done(job, mapping=mapping)) == ("done", 1, 0, 0)
    assert answers() == [("two", "one")]


def test_columns_of_any_name_can_be_named(project, receive):
    rows = [
        {"q": f"{who}?", "gpt": "one", "llama": "two", "who": who, "note": "kept"}
        for who in ("a", "tie", "1")
    ]
    job = receive(jsonl(rows), "table.jsonl")
    data = {
        "map_prompt": "q",
        "map_answer_a": "gpt",
        "map_answer_b": "llama",
        "map_winner": "who",
    }
    found = import_jobs.preview(job, "pairs")
    assert found.n_good == 0
    mapping = import_jobs.mapping_of("pairs", data, found.columns)
    again = import_jobs.preview(job, "pairs", mapping)
    assert (again.n_good, again.n_bad, again.formats) == (3, 1, ["compared"])
    job = done(job, "pairs", mapping)
    assert (counts(job), job.labelled) == (("done", 3, 0, 1), 2)
    assert answers() == [("one", "two")]
    assert given_back(project, "trl")[0]["note"] == "kept"


def test_answers_under_other_names_are_asked_for_not_taken_for_prompts(
    project, receive
):
    named = {"prompt": "Q?", "gpt": "one", "llama": "two"}
    task = {"id": 1, "data": named, "annotations": [annotation("right")]}
    job = receive(json.dumps([task]), "project-1.json")
    found = import_jobs.preview(job)
    assert (job.kind, found.n_good) == ("pairs", 0)
    assert "say which column is which" in str(found.items[0][1])
    mapping = {"answer_a": "gpt", "answer_b": "llama"}
    assert counts(done(job, mapping=mapping)) == ("done", 1, 0, 0)
    assert answers() == [("two", "one")]


def test_a_label_beside_a_prompt_is_no_side_of_a_comparison():
    assert not compared.is_compared({"prompt": "Q?", "tags": ["left"]})


def test_our_own_judgments_are_not_taken_for_comparisons():
    row = {"prompt": "Q?", "first": "a", "second": "b", "winner": "first"}
    assert not compared.is_compared({**row, "comparison": "17", "verdict": "first"})


WORDS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
VALUES = st.recursive(
    WORDS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["selected", "choices", "value", "rank", "user_id", "x"]),
            inner,
        )
    ),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        *("data", "annotations", "fields", "responses", "result", "winner", "prompt"),
        *("answer1", "answer2", "response_a", "response_b", "q.responses"),
        *("q.responses.users", "q.responses.status", "q.suggestion", "preference"),
    ]
)


@pytest.mark.django_db(False)
@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(
    st.dictionaries(NAMES, VALUES | st.dictionaries(NAMES, VALUES) | st.lists(VALUES))
)
def test_whatever_a_row_holds_is_read_or_refused(row):
    for flat in compared.opened(row):
        try:
            for one in compared.settled(flat):
                assert isinstance(one, dict)
        except BadRow as bad:
            assert str(bad)
