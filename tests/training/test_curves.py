"""What a round's page reads of its steps: spread over them, never all of many."""

from importlib import import_module

import pytest
from django.apps import apps
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from training import ingest
from training.models import RoundMetric
from training.queries import Curves, chart_series, curves_of, number_table

pytestmark = [pytest.mark.django_db, pytest.mark.both_databases]


def log(training_round, steps, *, phase="dpo", every=0, gap=None):
    """One row a step with the step as its loss; `every` so many are evaluated."""
    rows = [
        {"step": step, "phase": phase, "loss": None if step == gap else step}
        | ({"eval_loss": -step} if every and step % every == 0 else {})
        for step in steps
    ]
    ingest.store_metrics(training_round, rows)


def steps_of(rows):
    return [step for step, _values in rows]


@pytest.mark.parametrize(
    ("count", "every"),
    [(n, every) for n in (1, 2, 3, 19, 40, 300) for every in (1, 10)] + [(105, 1)],
)
def test_of_few_steps_all_are_read_and_the_ends_are_their_tenths(queued, count, every):
    logged = list(range(every, (count + 1) * every, every))
    log(queued, logged)
    log(queued, [7], phase="sft")
    curves = curves_of(queued)
    size = min(count, max(2, count // 10))
    assert steps_of(curves.drawn) == logged
    assert steps_of(curves.first) == logged[:size]
    assert steps_of(curves.last) == logged[-size:]
    assert curves.evaluated == [] and steps_of(curves_of(queued, "sft").drawn) == [7]


def test_no_steps_are_no_curves(queued):
    assert curves_of(queued) == Curves([], [], [], [])
    assert chart_series(curves_of(queued))["rewards"] == []


@pytest.fixture
def read(monkeypatch):
    """The rows of several columns that the database gives."""
    rows = []
    kind = RoundMetric.objects.none().values_list("step", "values")._iterable_class
    whole = kind.__iter__

    def counted(self):
        for row in whole(self):
            rows.append(row)
            yield row

    monkeypatch.setattr(kind, "__iter__", counted)
    return rows


def test_of_many_steps_no_more_rows_are_read_than_a_page_shows(queued, read):
    """Of 9,000 steps 300 for the charts, 200 of the 900 at each end, 8 evaluated."""
    log(queued, range(1, 9001), every=1111)
    with CaptureQueriesContext(connection) as queries:
        curves = curves_of(queued)
    assert len(queries) == 4 and len(read) <= 300 + 2 * 200 + 8 + 1
    drawn, first, last = map(steps_of, (curves.drawn, curves.first, curves.last))
    assert len(drawn) == 300 and (drawn[0], drawn[-1]) == (1, 9000)
    # 8,999 steps in 299 gaps are 30.1 each.
    gaps = {after - step for step, after in zip(drawn, drawn[1:], strict=False)}
    assert gaps == {30, 31}
    assert len(first) == 200 and (first[0], first[-1]) == (1, 900)
    assert len(last) == 200 and (last[0], last[-1]) == (8101, 9000)
    assert steps_of(curves.evaluated) == list(range(1111, 9000, 1111))


def test_evaluating_at_every_step_reads_no_more(queued):
    log(queued, range(1, 1001), every=1)
    curves = curves_of(queued)
    evaluated = steps_of(curves.evaluated)
    assert len(evaluated) == 300 and (evaluated[0], evaluated[-1]) == (1, 1000)
    assert len(number_table(curves)["rows"]) <= 120


def test_steps_far_apart_or_missing_give_the_one_before(queued):
    """A gap in the middle of 2,000: nothing is drawn there, and nothing twice."""
    log(queued, [*range(1, 501), *range(1500, 2001)])
    drawn = steps_of(curves_of(queued).drawn)
    assert drawn == sorted(set(drawn)) and (drawn[0], drawn[-1]) == (1, 2000)
    assert 500 in drawn and 140 < len(drawn) < 160


def test_the_charts_skip_gaps_and_keep_every_evaluated_step(queued):
    log(queued, range(1, 1001), every=487, gap=1)
    curves = curves_of(queued)
    loss, held_out = chart_series(curves)["loss"]
    assert loss["name"] == "loss" and len(loss["points"]) == 299
    assert held_out == {"name": "eval_loss", "points": [[487, -487], [974, -974]]}
    table = number_table(curves)
    assert table["names"] == ["loss", "eval_loss"]
    steps = [step for step, _values in table["rows"]]
    assert {1, 487, 974, 1000} <= set(steps) and len(steps) <= 62


def test_a_page_reads_as_much_of_many_steps_as_of_some(client, manager, queued, read):
    client.force_login(manager)
    log(queued, range(1, 2501))
    log(queued, range(1, 2501), phase="sft")
    for url in ("round", "round_status"):
        read.clear()
        client.get(reverse(url, args=[queued.pk]))
        assert 1000 < len(read) < 2 * (300 + 2 * 200) + 20


def test_a_step_that_comes_again_is_evaluated_as_it_says_then(queued):
    log(queued, [5], every=5)
    assert steps_of(curves_of(queued).evaluated) == [5]
    log(queued, [5])
    assert curves_of(queued).evaluated == []


def test_the_migration_marks_what_was_evaluated(queued):
    log(queued, range(1, 7), every=3)
    queued.metrics.update(is_evaluated=False)
    import_module("training.migrations.0003_mark_evaluated_steps").mark(apps, None)
    assert steps_of(curves_of(queued).evaluated) == [3, 6]
