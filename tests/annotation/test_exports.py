"""Exports: filters, judgments, prompts, CSV made harmless, the dataset's folder."""

import csv
import hashlib
import io
import json
import zipfile
from collections import Counter
from datetime import UTC, datetime
from functools import partial

import datasets
import pytest
import yaml
from datasets import load_dataset
from django.core.exceptions import PermissionDenied
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from annotation import (
    batches,
    downloads,
    export_filters,
    exporting,
    import_jobs,
    importing,
)
from annotation.batches import paged
from annotation.errors import ExportRefused
from annotation.export_filters import wanted
from annotation.files.tables import defused, fused
from annotation.models import (
    Completion,
    Decision,
    Judgment,
    PreferencePair,
    Prompt,
    Role,
)
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
from training.models import RoundPair, TrainingRound
from training.queries import pairs_of

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


def body(response):
    return b"".join(response)


def rows(response):
    return [json.loads(line) for line in body(response).decode().splitlines()]


def cells(response):
    text = body(response).decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def ids(project, **params):
    found = export_filters.pairs(project, wanted(params))
    return set(found.values_list("pk", flat=True))


# --- Filters -----------------------------------------------------------------------------
def test_pairs_are_narrowed_by_state_kind_and_verdict_of_a_rule(project):
    sound, rejected = (
        make_pair(project=project),
        make_pair(project=project, state="rejected"),
    )
    unsure = make_pair(project=project)
    waiting = make_pair(project=project, state="unchecked")
    prompt = make_prompt(project=project, is_held_out=True)
    held_out = make_pair(comparison=make_comparison(prompt=prompt))
    make_pair(project=project, superseded_at="2026-01-01T00:00Z")
    make_pair()
    rejected.verdicts.create(rule="similarity", result="reject")
    rejected.verdicts.create(rule="cut_off", result="pass")
    unsure.verdicts.create(rule="max_length", result="could_not_check")
    everything = {p.pk for p in (sound, rejected, unsure, waiting, held_out)}

    assert ids(project) == {sound.pk, unsure.pk}
    assert ids(project, which="held_out") == {held_out.pk}
    assert ids(project, which="accepted") == {sound.pk, unsure.pk, held_out.pk}
    assert ids(project, which="unchecked") == {waiting.pk}
    assert ids(project, which="all") == everything
    assert ids(project, which="all", rule="similarity") == {rejected.pk}
    assert ids(project, which="all", rule="cut_off") == set()
    assert ids(project, which="all", rule="cut_off", verdict="pass") == {rejected.pk}
    assert ids(project, verdict="could_not_check") == {unsure.pk}
    assert ids(project, which="all", kind="edited") == set()
    assert ids(project, kind="judged") == {sound.pk, unsure.pk}


def judged_by(project, *verdicts):
    """A decided pair for a, judged by one person after the other."""
    comparison = make_comparison(project=project, quota=len(verdicts))
    judgments = [make_judgment(comparison=comparison, verdict=v) for v in verdicts]
    decision = Decision.objects.create(
        comparison=comparison, outcome="winner", winner=comparison.a
    )
    pair = PreferencePair.objects.create(
        project=project,
        prompt=comparison.prompt,
        decision=decision,
        chosen=comparison.a,
        rejected=comparison.b,
        state="accepted",
    )
    return pair, judgments


def test_pairs_are_narrowed_by_agreement_annotator_and_date(project):
    alone, _ = judged_by(project, "first")
    split, (one, two, _three) = judged_by(project, "first", "first", "second")
    imported = PreferencePair.objects.create(
        project=project,
        prompt=alone.prompt,
        kind="imported",
        chosen=make_completion(prompt=alone.prompt, source="imported"),
        rejected=make_completion(prompt=alone.prompt, source="imported"),
        state="accepted",
    )
    Judgment.objects.filter(pk=one.pk).update(undone_at="2026-01-01T00:00Z")
    # Of split's standing judgments one of two is for what won.
    assert ids(project) == {alone.pk, split.pk, imported.pk}
    assert ids(project, agreement="0") == {alone.pk, split.pk}
    assert ids(project, agreement="0.5") == {alone.pk, split.pk}
    assert ids(project, agreement="0.51") == {alone.pk}
    assert ids(project, agreement="1") == {alone.pk}
    assert ids(project, annotator=two.annotator.username) == {split.pk}
    assert ids(project, annotator=one.annotator.username) == set()
    assert ids(project, annotator="nobody") == set()
    PreferencePair.objects.filter(pk=alone.pk).update(
        created_at=datetime(2026, 5, 4, 23, 59, tzinfo=UTC)
    )
    assert ids(project, until="2026-05-04") == {alone.pk}
    assert ids(project, until="2026-05-03") == set()
    assert ids(project, since="2026-05-05") == {split.pk, imported.pk}
    assert ids(project, since="2026-05-04T23:59:00Z", until="2026-05-05") == {alone.pk}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("which", "frozen"),
        ("kind", "made up"),
        ("rule", "taste"),
        ("verdict", "maybe"),
        ("agreement", "high"),
        ("agreement", "1.5"),
        ("agreement", "nan"),
        ("since", "yesterday"),
        ("since", "2026-13-01"),
        ("until", "9999-12-31"),
        ("format", "docx"),
        ("annotator", "a\0b"),
        ("annotator", "\ud800"),
    ],
)
def test_a_wrong_parameter_is_refused_by_its_name(project, name, value):
    with pytest.raises(ExportRefused) as refused:
        downloads.pairs(project, {name: value})
    assert (refused.value.field, refused.value.status) == (name, 422)


@pytest.mark.parametrize("text", ["0001-01-01", "0001-01-01T00:00:00"])
def test_a_day_that_no_database_holds_is_refused(project, settings, text):
    """Midnight of the first day in Shanghai is in the year before the first in UTC."""
    assert downloads.pairs(project, {"since": text})
    settings.TIME_ZONE = "Asia/Shanghai"
    with timezone.override("Asia/Shanghai"), pytest.raises(ExportRefused):
        downloads.pairs(project, {"since": text})


def test_the_pairs_of_a_round_come_through_the_same_filters(project):
    taken, other = make_pair(project=project), make_pair(project=project)
    training_round = TrainingRound.objects.create(
        project=project, number=1, start=project.base, reference="base", data="all"
    )
    RoundPair.objects.create(training_round=training_round, pair=taken)
    within = pairs_of(training_round.pk)
    for format in downloads.PAIR_FORMATS:
        assert body(downloads.pairs(project, {"format": format}, within))
    (row,) = rows(downloads.pairs(project, {}, within))
    assert row["id"] == str(taken.pk) != str(other.pk)
    assert rows(downloads.pairs(project, {"kind": "edited"}, within)) == []


# --- Formats -----------------------------------------------------------------------------
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
    left_out = export_filters.pairs(project, wanted({}))
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


def test_the_folder_has_one_form_of_llamafactorys_whatever_came_in(project):
    lines = (
        {"instruction": "A?", "chosen": "a", "rejected": "b", "system": "S"},
        {
            "conversations": [{"from": "human", "value": "B?"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
            "source": "x",
        },
    )
    data = "".join(json.dumps(row) + "\n" for row in lines).encode()
    importing.import_pairs(project, io.BytesIO(data))
    PreferencePair.objects.update(state="accepted")
    Prompt.objects.update(is_held_out=False)
    data = body(downloads.dataset(project, {}, Role.REVIEWER))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        file = archive.read("llamafactory/pairs.jsonl").decode()
        info = json.loads(archive.read("llamafactory/dataset_info.json"))
    given = [json.loads(line) for line in file.splitlines()]
    # A column in one row and not in another, or none, ends its loader.
    columns = set(info["tiebreak"]["columns"].values())
    assert [set(row) for row in given] == [columns, columns]
    assert [one["from"] for one in given[0]["conversations"]] == ["system", "human"]
    # The rows themselves go out as they came in.
    assert rows(downloads.pairs(project, {"format": "llamafactory"})) == list(lines)


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
    assert rows(downloads.judgments(project, {"annotator": "bob"}, Role.REVIEWER)) == []
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


# --- Streaming ---------------------------------------------------------------------------
def test_pages_of_a_table_are_whole_whatever_the_order(project):
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(7):
        judgment = make_judgment(project=project)
        Judgment.objects.filter(pk=judgment.pk).update(
            created_at=moment.replace(day=1 + number // 3)
        )
    found = Judgment.objects.filter(project=project)
    for size in (1, 2, 3, 7, 8):
        keys = [
            (j.created_at, j.pk) for j in paged(found, "created_at", "pk", size=size)
        ]
        assert len(set(keys)) == 7 and [k[0] for k in keys] == sorted(
            k[0] for k in keys
        )


def test_an_export_costs_four_queries_a_page_and_holds_nothing_open(
    project, django_assert_num_queries, monkeypatch
):
    for _number in range(5):
        make_pair(project=project)
    with django_assert_num_queries(4):
        assert len(rows(downloads.pairs(project, {}))) == 5
    monkeypatch.setattr(batches.paged, "__kwdefaults__", {"size": 2})
    with django_assert_num_queries(13):  # Three pages, and what another writes.
        stream = exporting.jsonl(export_filters.pairs(project, wanted({})))
        first = next(stream)
        # While it is read, others write.
        Completion.objects.update(text="changed meanwhile")
        rest = [json.loads(line) for line in stream]
    assert "changed" not in first and len(rest) == 4
    assert rest[-1]["chosen"][0]["content"] == "changed meanwhile"


# --- The folder --------------------------------------------------------------------------
def unzipped(project, where, **params):
    data = body(downloads.dataset(project, params, Role.REVIEWER))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        archive.extractall(where)
    return where


@pytest.fixture
def folder(project, tmp_path):
    for number in range(3):
        make_pair(project=project, annotator=make_user(f"u{number}", project=project))
    held_out = make_prompt("Held?", project=project, is_held_out=True)
    make_pair(comparison=make_comparison(prompt=held_out))
    rejected = make_pair(project=project, state="rejected")
    rejected.verdicts.create(rule="cut_off", result="reject")
    line = '{"prompt": "I?", "chosen": "a", "rejected": "b", "id": "mine"}'
    importing.import_pairs(project, io.BytesIO(line.encode()))
    PreferencePair.objects.filter(kind="imported").update(state="accepted")
    Prompt.objects.filter(is_asked=False).update(is_held_out=False)
    project.name = "A | name\n# with `marks`"
    project.save()
    return unzipped(project, tmp_path / "set")


def test_the_folder_is_ready_for_load_dataset(project, folder, tmp_path):
    cache = str(tmp_path / "cache")
    pairs = load_dataset(str(folder), cache_dir=cache)
    assert {name: len(split) for name, split in pairs.items()} == {
        "train": 4,
        "test": 1,
    }
    row = pairs["train"][0]
    assert row["chosen"][0]["role"] == "assistant" and row["weight"] == 1.0
    assert [json.loads(r["original"]) for r in pairs["train"] if r["original"]] == [
        {"prompt": "I?", "chosen": "a", "rejected": "b", "id": "mine"}
    ]
    judgments = load_dataset(str(folder), "judgments", cache_dir=cache)["train"]
    assert len(judgments) == 5 and "u0" not in judgments["annotator"]
    prompts = load_dataset(str(folder), "prompts", cache_dir=cache)["train"]
    assert len(prompts) == 5


def told(folder):
    """{variable: {split: rows}} of the lines that the card tells people to run."""
    text = (folder / "README.md").read_text()
    lines = text.partition("```python\n")[2].partition("```")[0]
    found: dict = {}
    exec(lines.replace('"this-folder"', repr(str(folder))), found)
    return {
        name: {split: len(rows) for split, rows in one.items()}
        for name, one in found.items()
        if isinstance(one, datasets.DatasetDict)
    }


def test_the_card_tells_only_what_load_dataset_can_load(
    project, folder, tmp_path, monkeypatch
):
    """`load_dataset` fails on a split without rows. Of the folder's pairs four train, one
    is held out, and five were judged; another project has one imported pair alone."""
    cached = partial(load_dataset, cache_dir=str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "load_dataset", cached)
    judged = {"judgments": {"train": 5}, "prompts": {"train": 5}}
    assert told(folder) == {"pairs": {"train": 4, "test": 1}, **judged}
    held_out = unzipped(project, tmp_path / "held_out", which="held_out")
    assert not (held_out / "data" / "train-00000.parquet").exists()
    assert told(held_out) == {"pairs": {"test": 1}, **judged}

    other = make_project()
    none = unzipped(other, tmp_path / "none")
    assert told(none) == {} and (none / "data" / "train-00000.parquet").exists()
    line = '{"prompt": "I?", "chosen": "a", "rejected": "b"}'
    importing.import_pairs(other, io.BytesIO(line.encode()))
    PreferencePair.objects.filter(project=other).update(state="accepted")
    Prompt.objects.filter(project=other).update(is_held_out=False)
    assert told(unzipped(other, tmp_path / "imported")) == {"pairs": {"train": 1}}
    Prompt.objects.filter(project=other).update(is_held_out=True)
    measured = unzipped(other, tmp_path / "measured")
    assert told(measured) == {"pairs": {"test": 1}}


def test_the_card_says_that_it_has_a_part_while_its_figures_are_of_all(
    project, folder, tmp_path
):
    """One of the folder's four pairs was frozen by a round; one more is held out."""
    part = "Only a part was exported"
    assert part not in (folder / "README.md").read_text()
    training_round = TrainingRound.objects.create(
        project=project, number=1, start=project.base, reference="base", data="all"
    )
    accepted = PreferencePair.objects.filter(state="accepted")
    pair = accepted.exclude(prompt__is_held_out=True).first()
    RoundPair.objects.create(training_round=training_round, pair=pair)
    within = pairs_of(training_round.pk)
    data = body(downloads.dataset(project, {}, Role.REVIEWER, within))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        card = archive.read("README.md").decode()
    assert f"{part}: the pairs that a training round froze" in card
    assert "figures after the list of files are the whole project's." in card
    assert "| data/train-00000.parquet | 1 |" in card and "| accepted | 5 |" in card
    narrowed = unzipped(project, tmp_path / "judged", kind="judged")
    card = (narrowed / "README.md").read_text()
    assert f"{part}: which = `sound`, kind = `judged`." in card


def test_the_card_counts_explains_and_hashes(project, folder):
    card = (folder / "README.md").read_text()
    _, head, text = card.split("---\n", 2)
    configs = {one["config_name"] for one in yaml.safe_load(head)["configs"]}
    assert configs == {"default", "judgments", "prompts"}
    for file in folder.rglob("*"):
        if file.is_file() and file.name != "README.md":
            name = file.relative_to(folder).as_posix()
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            assert f"| {name} |" in text and digest in text
    assert "1 cut_off" in text and "Agreement" in text and "Rules" in text
    assert "# A / name # with 'marks'" in text
    info = json.loads((folder / "llamafactory" / "dataset_info.json").read_text())
    assert info["tiebreak"]["ranking"] is True


def test_what_the_folder_holds_comes_back_the_same(
    project, folder, manager, monkeypatch
):
    monkeypatch.setattr("annotation.import_jobs._nudge", lambda pk: None)
    monkeypatch.setattr("annotation.import_jobs.send", lambda *args, **options: None)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for part in sorted(folder.rglob("*")):
            archive.write(part, f"set/{part.relative_to(folder).as_posix()}")
    upload = SimpleUploadedFile("set.zip", file.getvalue())
    other = make_project()
    job = import_jobs.receive(other, manager, upload)
    import_jobs.start(job)
    import_jobs.run(job.pk)
    job.refresh_from_db()
    # Judgments, prompts and LLaMA-Factory's copy of the pairs are passed over.
    assert (job.state, job.accepted, job.duplicates, job.rejected) == ("done", 5, 0, 0)

    def all_of(where):
        found = PreferencePair.objects.filter(
            project=where, state__in=["accepted", "unchecked"]
        )
        names = ("prompt__messages", "chosen__text", "rejected__text", "weight")
        return sorted(map(str, found.values_list(*names)))

    assert all_of(other) == all_of(project)


def test_the_folder_comes_in_as_prompts_without_a_bad_row(
    project, folder, manager, monkeypatch
):
    monkeypatch.setattr("annotation.import_jobs._nudge", lambda pk: None)
    data = body(downloads.dataset(project, {}, Role.REVIEWER))
    job = import_jobs.receive(
        make_project(), manager, SimpleUploadedFile("set.zip", data)
    )
    import_jobs.start(job, "prompts")
    import_jobs.run(job.pk)
    job.refresh_from_db()
    # Five that the policy is asked and one of an imported pair.
    assert (job.state, job.accepted, job.rejected) == ("done", 6, 0)


def test_pairs_are_exported_by_keys_while_statistics_are_wrong():
    """As after a look at the tables while their first rows were being written."""
    project = make_project()
    prompt = make_prompt(project=project)
    for _ in range(20):
        sides = [make_completion(prompt=prompt, source="imported") for _ in range(2)]
        chosen, rejected = sides
        PreferencePair.objects.create(
            project=project,
            prompt=prompt,
            kind="imported",
            chosen=chosen,
            rejected=rejected,
        )
    pairs = export_filters.pairs(project, wanted({"which": "all"}))
    with CaptureQueriesContext(connection) as asked:
        assert len(list(exporting.jsonl(pairs))) == 20
    if connection.vendor == "sqlite":
        return  # It plans by the indexes there are.
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE pg_class SET relpages = 1, reltuples = 0"
            " WHERE relname LIKE 'annotation_%' AND relkind = 'r'"
        )
        for query in asked.captured_queries:
            cursor.execute(f"EXPLAIN (ANALYZE) {query['sql']}")
            plan = "\n".join(row for (row,) in cursor.fetchall())
            assert "Rows Removed by Join Filter" not in plan, plan
