"""What a trainer writes comes into the database once, whole, and under its epoch."""

import json

import pytest
from django.db import OperationalError, transaction

from training import attempts, ingest, supervision
from training.errors import StaleRound

pytestmark = pytest.mark.django_db


@pytest.mark.both_databases
def test_each_step_is_kept_once_whatever_is_read_again(queued):
    ingest.store_metrics(queued, [{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.6}])
    ingest.store_metrics(
        queued,
        [{"step": 2, "loss": 0.5}, {"step": 2, "loss": 0.4}]
        + [{"step": 2, "phase": "sft", "loss": 2.0}],
    )
    kept = queued.metrics.order_by("phase", "step").values_list(
        "phase", "step", "values"
    )
    assert list(kept) == [
        ("dpo", 1, {"loss": 0.7}),
        ("dpo", 2, {"loss": 0.4}),
        ("sft", 2, {"loss": 2.0}),
    ]


@pytest.mark.both_databases
def test_margins_of_all_pairs_are_stored_by_one_statement(
    queued, tmp_path, django_assert_num_queries
):
    """In the transaction that ends the round: on SQLite nobody judges meanwhile."""
    path = tmp_path / "pairs_scored.jsonl"
    path.write_text("")
    ingest.store_margins(queued, path)
    first, *others = queued.round_pairs.order_by("pair_id").values_list(
        "pair_id", flat=True
    )
    scored = {pk: pk / 4 for pk in others}
    lines = [
        json.dumps({"id": str(pk), "margin": margin})
        for pk, margin in [*scored.items(), (max(others) + 1, 9.0)]
    ]
    path.write_text("\n".join(lines))
    with django_assert_num_queries(1):
        ingest.store_margins(queued, path)
    kept = dict(queued.round_pairs.values_list("pair_id", "final_margin"))
    assert kept == {first: None, **scored}


def test_a_half_written_line_waits_until_it_is_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    reader = ingest.MetricsReader(path)
    assert reader.new_rows() == []
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    assert reader.new_rows() == [{"step": 1}]
    assert reader.new_rows() == []
    with path.open("a") as file:
        file.write('ss": 0.5}\n\nnot json\n[1]\n{"step": 3, "loss": NaN}\n')
    assert reader.new_rows() == [{"step": 2, "loss": 0.5}, {"step": 3, "loss": None}]


def test_a_file_that_was_replaced_is_read_from_its_start(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    reader = ingest.MetricsReader(path)
    reader.new_rows()
    fresh = tmp_path / "fresh"
    fresh.write_text('{"step": 1}\n')
    fresh.rename(path)
    assert reader.new_rows() == [{"step": 1}]


def test_metrics_and_heartbeat_stand_or_fall_together(queued):
    """A fenced supervisor's lines never reach the chart."""
    mine = attempts.claim(queued.pk)
    attempts.give_back(mine, "overtaken", is_lost=True)
    with pytest.raises(StaleRound), transaction.atomic():
        if not attempts.heartbeat(mine, step=9):
            raise StaleRound
        ingest.store_metrics(mine, [{"step": 9}])
    assert not queued.metrics.exists()


def test_what_a_database_did_not_take_is_read_again_even_from_a_file_replaced_since(
    queued, monkeypatch, tmp_path
):
    mine = attempts.claim(queued.pk)
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 9}\n{"step": 2, "loss": 9}\n')
    reader = ingest.MetricsReader(path)
    supervision._record(mine, reader, {}, False)
    fresh = tmp_path / "fresh"
    fresh.write_text("".join(f'{{"step": {n}, "loss": 1}}\n' for n in (1, 2, 3)))
    fresh.rename(path)
    with monkeypatch.context() as patched:
        patched.setattr(ingest, "store_metrics", database_away)
        with pytest.raises(OperationalError):
            supervision._record(mine, reader, {}, False)
    supervision._record(mine, reader, {}, False)
    losses = queued.metrics.order_by("step").values_list("values", flat=True)
    assert list(losses) == [{"loss": 1}] * 3


def database_away(*_args):
    raise OperationalError


@pytest.mark.both_databases
def test_more_steps_than_a_column_holds_do_not_end_the_training(queued):
    mine = attempts.claim(queued.pk)
    changes = ingest.progress_of({"step": 7, "total_steps": 30_000_000_000})
    assert attempts.heartbeat(mine, **changes)
    queued.refresh_from_db()
    assert (queued.step, queued.total_steps) == (7, 2_147_483_647)
