"""What an export's rows say: each service's format, CSV made harmless, judgments."""

import io
import json
from collections import Counter
from datetime import datetime

import pytest
from django.core.exceptions import PermissionDenied
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from annotation import downloads, export_filters, exporting, importing
from annotation.export_filters import wanted
from annotation.files.tables import defused, fused
from annotation.models import PreferencePair, Prompt, Role
from tests.annotation.exported import body, cells, rows
from tests.factories import (
    make_comparison,
    make_completion,
    make_judgment,
    make_lease,
    make_pair,
    make_project,
    make_prompt,
    make_user,
)

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


def test_each_service_gets_what_it_takes_and_no_more(project):
    system = {"sampling": {"system_prompt": "Be kind."}}
    a = make_completion("Yes.", prompt=make_prompt("Why?", project=project), **system)
    pair = make_pair(comparison=make_comparison(a=a))
    tool = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    lines = json.dumps(
        {
            "input": {"messages": [{"role": "user", "content": "T"}], "tools": [1]},
            "preferred_output": [tool, {"role": "tool", "content": "r"}],
            "non_preferred_output": [{"role": "assistant", "content": "no"}],
        }
    )
    importing.import_pairs(project, io.BytesIO(lines.encode()))
    PreferencePair.objects.update(state="accepted")
    Prompt.objects.update(is_held_out=False)
    asked = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Why?"},
    ]
    # Together: one assistant message an answer, no tools.
    (row,) = rows(downloads.pairs(project, {"format": "together"}))
    assert row == {
        "input": {"messages": asked},
        "preferred_output": [{"role": "assistant", "content": "Yes."}],
        "non_preferred_output": [{"role": "assistant", "content": pair.rejected.text}],
    }
    # LLaMA-Factory: sharegpt with ranking.
    (row,) = rows(downloads.pairs(project, {"format": "llamafactory"}))
    assert row == {
        "conversations": [
            {"from": "system", "value": "Be kind."},
            {"from": "human", "value": "Why?"},
        ],
        "chosen": {"from": "gpt", "value": "Yes."},
        "rejected": {"from": "gpt", "value": pair.rejected.text},
        "weight": 1.0,
    }
    _judged, trl = rows(downloads.pairs(project, {"format": "trl"}))
    assert trl["tools"] == [1] and trl["chosen"][0] == tool
    left_out = export_filters.pairs(project, wanted({}, project))
    counted = Counter()
    assert len(list(exporting.rows(left_out, "together", counted))) == 1
    assert sum(counted.values()) == 1


def test_llamafactory_gets_no_chat_that_it_would_skip(project):
    def user(text):
        return {"role": "user", "content": text}

    def says(text):
        return {"role": "assistant", "content": text}

    system = {"role": "system", "content": "S"}
    chats = [
        [system, user("1"), says("2"), user("3")],
        [user("1"), user("2")],
        [says("1"), user("2")],
        [user("1"), system, user("2")],
    ]
    lines = "".join(
        json.dumps({"prompt": chat, "chosen": [says("a")], "rejected": [says("b")]})
        + "\n"
        for chat in chats
    )
    assert importing.import_pairs(project, io.BytesIO(lines.encode())).accepted == 4
    counted = Counter()
    (row,) = exporting.rows(PreferencePair.objects.all(), "llamafactory", counted)
    assert [one["from"] for one in row["conversations"]] == [
        *("system", "human", "gpt", "human")
    ]
    assert list(counted.values()) == [3]


FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "'=1",
    "''-1",
    "＝1",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_defused_and_come_back(text):
    assert defused(text).startswith("'") and fused(defused(text)) == text


@given(st.text())
def test_defusing_is_undone_for_any_text(text):
    assert fused(defused(text)) == text
    assert defused(text)[:1] not in {*"=+-@\t\r\n"} or not defused(text)


def test_a_csv_of_pairs_holds_no_formula_and_comes_back_the_same(project):
    for text in [
        *FORMULAS,
        'with "quotes"\r\nand, lines',
        "普通话",
        "[{not chat",
        "   ",
    ]:
        prompt = make_prompt(text.strip() and text or "Q", project=project)
        a = make_completion(text or " ", prompt=prompt)
        make_pair(comparison=make_comparison(a=a))
    table = cells(downloads.pairs(project, {"format": "csv"}))
    assert [row["chosen"] for row in table][0] == "'=1+1"
    for row in table:
        for value in row.values():
            assert value[:1] not in ("=", "+", "-", "@", "\t", "\r", "\n")
    other = make_project()
    file = body(downloads.pairs(project, {"format": "csv"}))
    report = importing.import_pairs(other, io.BytesIO(file))
    assert report.rejected == [] and report.accepted == len(table)

    def all_of(where):
        return list(
            PreferencePair.objects.filter(project=where)
            .order_by("pk")
            .values_list("prompt__messages", "chosen__text", "rejected__text")
        )

    assert all_of(other) == all_of(project)


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_prompts_come_back_the_same(project, format):
    chats = [
        [{"role": "user", "content": "=1+1"}],
        [{"role": "user", "content": '[{"role": "user"}]'}],
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "为什么\r\n?"},
        ],
    ]
    for messages in chats:
        importing.store(project, "prompts", [messages])
    file = body(downloads.prompts(project, {"format": format}))
    other = make_project()
    report = importing.import_prompts(other, io.BytesIO(file))
    assert (report.accepted, report.rejected) == (3, [])
    assert [p.messages for p in other.prompts.order_by("pk")] == chats


def test_judgments_say_who_saw_what_where_and_people_go_by_pseudonyms(project):
    ann = make_user("ann", project=project)
    kept = make_judgment(
        project=project,
        annotator=ann,
        verdict="second",
        strength=2,
        reasons=["clear"],
        comment="=cmd",
    )
    tie = make_judgment(project=project, annotator=ann, verdict="tie")
    make_judgment(project=project, undone_at="2026-01-01T00:00Z")
    make_judgment()
    one, other = rows(downloads.judgments(project, {}, Role.REVIEWER))
    assert one["id"] == str(kept.pk) and other["winner"] == ""
    assert (one["first"], one["second"]) == (
        kept.lease.first.text,
        kept.lease.second.text,
    )
    assert (one["verdict"], one["winner"], one["strength"]) == ("second", "second", 2)
    assert (one["reasons"], one["seconds"]) == (["clear"], 4.2)
    assert datetime.fromisoformat(one["created_at"]) == kept.created_at
    # A pseudonym: stable within a project, another in the next, no name anywhere.
    assert one["annotator"] == other["annotator"] != "ann"
    elsewhere = make_judgment(annotator=ann)
    (theirs,) = rows(downloads.judgments(elsewhere.project, {}, Role.REVIEWER))
    assert theirs["annotator"] != one["annotator"]
    named = rows(downloads.judgments(project, {"names": "1"}, Role.MANAGER))
    assert {row["annotator"] for row in named} == {"ann"}
    with pytest.raises(PermissionDenied):
        downloads.judgments(project, {"names": "1"}, Role.REVIEWER)
    table = cells(downloads.judgments(project, {"format": "csv"}, Role.REVIEWER))
    assert table[0]["comment"] == "'=cmd" and len(table) == 2
    assert rows(downloads.judgments(project, {"annotator": "bob"}, Role.MANAGER)) == []
    file = io.BytesIO(
        body(downloads.judgments(project, {"format": "parquet"}, Role.REVIEWER))
    )
    assert parquet.read_table(file).column("verdict").to_pylist() == [
        "second",
        tie.verdict,
    ]


def test_criteria_are_exported_by_the_side_that_was_seen(project):
    """The second answer won by one of them, neither by the other; a judgment without."""
    lease = make_lease(project=project)
    won = {"help, ful": lease.second_id, "短": None}
    make_judgment(lease=lease, criteria=won)
    make_judgment(project=project)
    said = {"help, ful": "second", "短": "tie"}
    one, other = rows(downloads.judgments(project, {}, Role.REVIEWER))
    assert (one["criteria"], other["criteria"]) == (said, {})
    table = cells(downloads.judgments(project, {"format": "csv"}, Role.REVIEWER))
    file = body(downloads.judgments(project, {"format": "parquet"}, Role.REVIEWER))
    column = parquet.read_table(io.BytesIO(file)).column("criteria").to_pylist()
    for one, other in ([row["criteria"] for row in table], column):
        assert (json.loads(one), other) == (said, "")
