"""Which pairs an export holds: filters, wrong parameters, the pairs of a round."""

import io
import json
from datetime import UTC, datetime

import pytest
from django.utils import timezone

from annotation import downloads, export_filters
from annotation.errors import ExportRefused
from annotation.export_filters import wanted
from annotation.export_rows import pseudonym
from annotation.importing import import_pairs
from annotation.models import Decision, Judgment, PreferencePair, Role
from tests.annotation.exported import body, rows
from tests.factories import (
    make_comparison,
    make_imported,
    make_judgment,
    make_pair,
    make_prompt,
    make_user,
)
from training.models import RoundPair, TrainingRound
from training.queries import pairs_of

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


def ids(project, **params):
    found = export_filters.pairs(project, wanted(params, project, role=Role.MANAGER))
    return set(found.values_list("pk", flat=True))


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
    imported = make_imported(alone.prompt)
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


def test_ties_and_lone_labels_leave_by_date_as_pairs_do(project):
    """They are KTO's alone; what only pairs have (a state, an annotator) leaves them out."""
    make_pair(project=project)
    old, new = (make_comparison(project=project) for _ in range(2))
    for comparison in (old, new):
        Decision.objects.create(comparison=comparison, outcome="tie")
    Decision.objects.filter(comparison=old).update(
        created_at=datetime(2026, 1, 2, tzinfo=UTC)
    )
    lone = {"prompt": "Q", "completion": "fine", "label": True}
    import_pairs(project, io.BytesIO(json.dumps(lone).encode()))

    def exported(**params):
        return rows(downloads.pairs(project, {"format": "kto", **params}))

    assert len(exported()) == 2 + 4 + 1
    found = exported(since="2026-06-01")
    assert len(found) == 2 + 2 + 1
    assert not [row for row in found if str(row.get("id")).startswith(f"tie-{old.pk}-")]
    assert len(exported(until="2026-06-01")) == 2
    assert len(exported(which="accepted")) == 2


def test_only_managers_ask_by_others_names(project):
    """All rows of one name would bear that person's pseudonym."""
    pair, (one, two) = judged_by(project, "first", "second")
    rita, hidden = one.annotator, pseudonym(project.pk, two.annotator_id)
    rita_hidden = pseudonym(project.pk, rita.pk)
    stranger = make_user("stranger")

    def found(name, user=None, role=None):
        asked = wanted({"annotator": name}, project, user=user, role=role)
        pairs = export_filters.pairs(project, asked).values_list("pk", flat=True)
        return {*pairs, *export_filters.judgments(project, asked)}

    both = {"user": rita, "role": Role.REVIEWER}
    name = two.annotator.username
    assert found(rita.username, **both) == found(rita_hidden, **both) == {pair.pk, one}
    assert found(hidden, **both) == found(hidden) == {pair.pk, two}
    assert found(name, role=Role.MANAGER) == {pair.pk, two}
    assert found(stranger.username, user=stranger, role=Role.REVIEWER) == set()
    elsewhere = pseudonym(project.pk + 1, two.annotator_id)
    # The same words whether there is such a user or not.
    for wrong in (name, name.upper(), "stranger", "nobody", elsewhere):
        with pytest.raises(ExportRefused, match="only a manager") as refused:
            found(wrong, **both)
        assert refused.value.field == "annotator"
    with pytest.raises(ExportRefused):
        found(rita.username)


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
