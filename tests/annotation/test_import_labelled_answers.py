"""Answers with a label each: joined to pairs by their prompt, or kept alone."""

import json
import random

import pytest

from annotation import exporting
from annotation.files import pairing
from annotation.models import LabelledAnswer, PreferencePair
from tests.annotation.pair_rows import (
    KTO,
    PLAIN,
    contents,
    given_back,
    load,
    says,
    user,
)
from tests.factories import make_project

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]

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
    assert "is not a pair" in report.rejected[0].reason


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
