"""What is exported imports to the same, in every format, whatever was judged.

A project with winners, edits, ties, both-bads and imported rows is exported, imported
into an empty project and exported there. Contents equal to the letter are one pair (or
answer) there, as in any import; so rows are compared as sets.
"""

import io
import json
from pathlib import Path

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotation import export_filters, export_rows, exporting, importing, storing
from annotation.checking import check_waiting
from annotation.export_filters import Wanted
from annotation.files import columns
from annotation.files.parts import Reading
from annotation.files.writing import written
from annotation.importing import import_pairs
from annotation.models import Decision, LabelledAnswer, PreferencePair, Prompt
from annotation.queries import alike_decisions
from tests.annotation import exported
from tests.annotation.test_import_any_pairs import ASKED, SPOKEN
from tests.factories import (
    make_comparison,
    make_completion,
    make_pair,
    make_project,
    make_prompt,
)

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]

SOUP = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
OUTCOMES = st.sampled_from(["winner", "winner", "edited", "tie", "both_bad"])
JUDGED = st.lists(
    st.tuples(st.integers(0, 2), OUTCOMES, SPOKEN, SPOKEN, SPOKEN), max_size=6
)
KTO_ROW = st.builds(
    lambda asked, said, label, more: {
        "prompt": asked,
        "completion": said,
        "label": label,
        **more,
    },
    st.sampled_from(["Q0", "Q1"]),
    SPOKEN,
    st.booleans(),
    st.sampled_from([{}, {"by": "x"}, {"id": 7}, {"weight": 0.5}]),
)


def judge(project, prompts, number, outcome, a, b, c):
    """A decided comparison; of an edit, the pair that better > worse made, too."""
    prompt = prompts[number]
    sampling = {"system_prompt": "Be kind."} if number == 1 else {}
    one, other = (
        make_completion(text, prompt=prompt, sampling=sampling) for text in (a, b)
    )
    comparison = make_comparison(a=one, b=other, prompt=prompt)
    if outcome in ("tie", "both_bad"):
        Decision.objects.create(comparison=comparison, outcome=outcome)
        return
    pair = make_pair(comparison=comparison, weight=1.5 if number == 2 else 1.0)
    if outcome == "edited":
        PreferencePair.objects.create(
            project=project,
            prompt=prompt,
            decision=pair.decision,
            kind="edited",
            chosen=make_completion(
                c, prompt=prompt, source="edited", edited_from=pair.chosen
            ),
            rejected=pair.chosen,
            state="accepted",
        )


def filled(asked, judged, imported=()):
    project = unmeasured()
    prompts = [make_prompt(text, project=project) for text in asked]
    for one in judged:
        judge(project, prompts, *one)
    # In two files: what stands alone in each is not joined afterwards.
    for part in (imported[::2], imported[1::2]):
        load(project, part)
    return project


def unmeasured():
    return make_project(settings={"held_out_share": 0})


def load(project, rows):
    """Import the rows; all of it may train."""
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    report = import_pairs(project, io.BytesIO(data))
    PreferencePair.objects.filter(project=project).update(state="accepted")
    return report


def export(project, format):
    return [json.loads(line) for line in exported.export(project, format)]


def canonical(row, *without):
    kept = {name: value for name, value in row.items() if name not in without}
    return json.dumps(kept, sort_keys=True)


@SOUP
@given(
    format=st.sampled_from(sorted(exporting.FORMATS)),
    asked=st.lists(ASKED, min_size=3, max_size=3, unique=True),
    judged=JUDGED,
    imported=st.lists(KTO_ROW, max_size=4),
)
def test_every_format_of_lines_comes_back_as_it_was(format, asked, judged, imported):
    rows = export(filled(asked, judged, imported), format)
    other = unmeasured()
    report = load(other, rows)
    assert report.rejected == []
    back = export(other, format)
    # Each row is one of those that went in, as it was …
    assert {canonical(row) for row in back} <= {canonical(row) for row in rows}
    # … and none is missing but for those that say the same again.
    same = ("id", "weight", "by")
    told = {_content(row, same) for row in rows}
    assert {_content(row, same) for row in back} == told
    again = load(other, rows)
    assert (again.accepted, again.rejected) == (0, [])


def _content(row, without):
    """What a row says; of labelled answers with the prompt as messages, however it is
    written."""
    row = dict(row)
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        if isinstance(row.get(name), str):
            row[name] = [{"role": role, "content": row[name]}]
    return canonical(row, *without)


@SOUP
@given(
    asked=st.lists(ASKED, min_size=3, max_size=3, unique=True),
    judged=JUDGED,
    imported=st.lists(KTO_ROW, max_size=4),
)
def test_an_export_changes_nothing_where_it_came_from(asked, judged, imported):
    project = filled(asked, judged, imported)
    for format in sorted(exporting.FORMATS):
        report = load(project, export(project, format))
        assert (report.accepted, report.rejected) == (0, []), format


@SOUP
@given(
    way=st.sampled_from(["csv", "jsonl", "parquet"]),
    asked=st.lists(ASKED, min_size=3, max_size=3, unique=True),
    judged=JUDGED,
    imported=st.lists(KTO_ROW, max_size=4),
)
def test_every_table_of_pairs_comes_back_as_it_was(
    tmp_path_factory, way, asked, judged, imported
):
    project = filled(asked, judged, imported)
    path = tmp_path_factory.mktemp("table") / f"pairs.{way}"
    other = unmeasured()
    path.write_bytes(b"".join(written(table(project), columns.PAIRS, way)))
    items = list(importing.items_of("pairs", read(path)))
    storing.store(other, "pairs", [item for _place, item in items])
    PreferencePair.objects.filter(project=other).update(state="accepted")
    # Numbers and the kind are another project's own, and what stands beside a pair
    # that was imported ("original") then says what it was imported as.
    own = ("id", "kind", "original")
    assert {canonical(row, *own) for row in table(other)} <= {
        canonical(row, *own) for row in table(project)
    }
    assert {canonical(row, *own, "weight") for row in table(other)} == {
        canonical(row, *own, "weight") for row in table(project)
    }


def table(project):
    return list(export_rows.pair_table(export_filters.pairs(project, Wanted())))


@pytest.mark.parametrize("way", ["csv", "jsonl", "parquet"])
def test_long_answers_come_back_through_every_table(way, tmp_path):
    """Each below MAX_CHARS, the row as it came (`original`) above csv's own limit."""

    def answer(letter):
        return [{"role": "assistant", "content": f"{letter}\n" * 35_000}]

    question = [{"role": "user", "content": "Q"}]
    row = {
        "input": {"messages": question, "tools": []},
        "preferred_output": answer("a"),
        "non_preferred_output": answer("b"),
    }
    project, other = unmeasured(), unmeasured()
    assert load(project, [row]).accepted == 1
    file = tmp_path / "file"
    file.write_bytes(b"".join(written(iter(table(project)), columns.PAIRS, way)))
    items = list(importing.items_of("pairs", read(file)))
    storing.store(other, "pairs", [item for _place, item in items])
    PreferencePair.objects.filter(project=other).update(state="accepted")
    assert export(other, "openai") == [row]


TOOLED = {
    "input": {"messages": [{"role": "user", "content": "Q"}], "tools": [1]},
    "preferred_output": [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "teh result"},
        {"role": "assistant", "content": "teh answer"},
    ],
    "non_preferred_output": [{"role": "assistant", "content": "teh other"}],
    "by": "x",
}
# Kept whole: the answers hold the question again.
REPEATING = {
    "prompt": "Q",
    "chosen": [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "teh answer"},
    ],
    "rejected": [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "teh other"},
    ],
    "score": 3,
}
KEPT = {"prompt": "Q", "chosen": "teh answer", "rejected": "teh other", "by": "x"}


@pytest.mark.parametrize("way", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("format", "row"), [("openai", TOOLED), ("trl", REPEATING), ("trl", KEPT)]
)
def test_a_cell_that_was_edited_counts_and_what_came_beside_it_stays(
    way, format, row, tmp_path
):
    """As in a spreadsheet: `original` still has what the row was before."""
    project, other = unmeasured(), unmeasured()
    assert load(project, [row]).accepted == 1
    (told,) = table(project)
    edited = json.loads(json.dumps(told).replace("teh other", "the other"))
    edited |= {"original": told["original"], "weight": 2.0}
    file = tmp_path / "file"
    file.write_bytes(b"".join(written([edited], columns.PAIRS, way)))
    items = [item for _place, item in importing.items_of("pairs", read(file))]
    storing.store(other, "pairs", items)
    PreferencePair.objects.filter(project=other).update(state="accepted")
    ((_id, rejected, weight),) = PreferencePair.objects.filter(
        project=other
    ).values_list("pk", "rejected__text", "weight")
    assert (rejected, weight) == ("the other", 2.0)
    (back,) = export(other, format)
    assert exporting.line(back).count("teh") == json.dumps(row).count("teh") - 1
    assert float(back["weight"]) == 2.0
    if row is not REPEATING:
        mended = json.dumps({**row, "weight": 2.0}).replace("teh other", "the other")
        assert back == json.loads(mended)


@pytest.mark.parametrize("original", ["", '{"prompt": "Q", "chos', "cut off"])
def test_an_original_that_cannot_be_read_leaves_the_columns(original):
    project, other = unmeasured(), unmeasured()
    load(project, [KEPT])
    file = written([table(project)[0] | {"original": original}], columns.PAIRS, "csv")
    report = import_pairs(other, io.BytesIO(b"".join(file)))
    assert (report.accepted, report.rejected) == (1, [])


@pytest.mark.parametrize("format", ["trl", "kto", "llamafactory"])
def test_weights_come_back_where_the_format_has_a_place_for_them(format):
    project, other = unmeasured(), unmeasured()
    for weight in (1.0, 1.5):
        make_pair(project=project, weight=weight)
    load(other, export(project, format))
    pairs = PreferencePair.objects.filter(project=other).order_by("weight")
    assert [pair.weight for pair in pairs] == [1.0, 1.5]


def test_what_openai_and_together_get_has_no_field_that_they_refuse():
    project = unmeasured()
    make_pair(project=project, weight=1.5)
    for format in ("openai", "together"):
        (row,) = export(project, format)
        assert set(row) == {"input", "preferred_output", "non_preferred_output"}


@pytest.mark.parametrize("way", ["csv", "jsonl", "parquet"])
def test_an_improved_answer_stays_one_in_every_table_and_in_the_next(way, tmp_path):
    """A near copy by design: the rule on likeness leaves it alone there, too, and what
    was improved, which had won, is no bad answer. Said of itself by a file of another's,
    it counts for nothing."""
    good = "Put the eggs into boiling water for six minutes, then rinse them cold."
    judged = [(0, "edited", good, "It depends. " * 5, good.replace("six", "seven"))]
    rows = table(filled(["Q0", "Q1", "Q2"], judged))
    for _ in range(2):
        other = unmeasured()
        path = tmp_path / f"{other.pk}.{way}"
        path.write_bytes(b"".join(written(iter(rows), columns.PAIRS, way)))
        items = [item for _place, item in importing.items_of("pairs", read(path))]
        storing.store(other, "pairs", items)
        check_waiting()
        pairs = PreferencePair.objects.filter(project=other).order_by("pk")
        assert [pair.state for pair in pairs] == ["accepted", "accepted"]
        said = [
            (row["completion"][0]["content"], row["label"])
            for row in export(other, "kto")
        ]
        assert (good, True) in said and (good, False) not in said
        rows = table(other)
    other = unmeasured()
    (row,) = (row for row in rows if row["kind"] == "edited")
    foreign = {name: row[name] for name in ("prompt", "chosen", "rejected", "kind")}
    import_pairs(other, io.BytesIO(json.dumps(foreign).encode()))
    check_waiting()
    assert PreferencePair.objects.get(project=other).state == "rejected"


def read(path: Path):
    return Reading(path, most=10**8, longest=10**7)


def test_ties_and_both_bads_come_back_as_labelled_answers_and_no_pair():
    judged = [
        (0, "tie", "fine", "fine, too", ""),
        (0, "both_bad", "awful", "awful, too", ""),
        (1, "edited", "good", "bad", "better"),
    ]
    project = filled(["Q0", "Q1", "Q2"], judged)
    rows = export(project, "kto")
    assert len(rows) == 2 + 2 + 3
    other = unmeasured()
    report = load(other, rows)
    # The edited answer stands alone: the one it was made of won its own pair.
    assert (report.accepted, report.labelled, report.rejected) == (6, 5, [])
    (pair,) = PreferencePair.objects.filter(project=other)
    assert (pair.chosen.text, pair.rejected.text) == ("good", "bad")
    assert not alike_decisions(other).exists(), "nobody judged here"
    assert sorted(map(canonical, export(other, "kto"))) == sorted(map(canonical, rows))
    # Formats of pairs hold the pair alone.
    assert len(export(other, "trl")) == 1


def test_answers_to_prompts_set_aside_stay_out_of_what_trains():
    project = unmeasured()
    load(project, [{"prompt": "Q", "completion": "fine", "label": True}])
    assert len(export(project, "kto")) == 1
    Prompt.objects.filter(project=project).update(is_held_out=True)
    assert export(project, "kto") == []


def test_a_labelled_answer_goes_with_its_project():
    project = unmeasured()
    load(project, [{"prompt": "Q", "completion": "fine", "label": True}])
    assert LabelledAnswer.objects.get().created_at <= timezone.now()
    LabelledAnswer.objects.all().delete()
    project.delete()
    assert not Prompt.objects.exists()
