"""What the beat sends, driven by hand: clocks that are set, workers that are away."""

import time
from collections import Counter
from datetime import timedelta

import pytest
from celery.utils.imports import symbol_by_name

from config.celery import app


@pytest.fixture
def clock(monkeypatch):
    """The seconds that pass, and how far the machine's own clock was set."""
    clock = {"passed": 0.0, "set": 0.0}
    began, real = app.now(), time.monotonic()

    def now(_self):
        return began + timedelta(seconds=clock["passed"] + clock["set"])

    monkeypatch.setattr(type(app), "now", now)
    monkeypatch.setattr("time.monotonic", lambda: real + clock["passed"])
    return clock


@pytest.fixture
def beat(clock, tmp_path, monkeypatch):
    """beat(seconds): {task: how often it was sent in them}."""
    kind = symbol_by_name(app.conf.beat_scheduler)
    sent = []
    monkeypatch.setattr(kind, "producer", None)
    monkeypatch.setattr(
        kind, "apply_entry", lambda self, entry, producer=None: sent.append(entry)
    )
    scheduler = kind(app=app, schedule_filename=str(tmp_path / "beat"))

    def run(seconds):
        sent.clear()
        until = clock["passed"] + seconds
        while clock["passed"] < until:
            clock["passed"] += max(scheduler.tick(), 0.001)
        return Counter(entry.task for entry in sent)

    return run


def test_all_is_due_when_the_beat_begins(beat):
    assert set(beat(1)) == {entry["task"] for entry in app.conf.beat_schedule.values()}


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_changes_nothing(beat, clock, hours):
    before = beat(60)
    clock["set"] = hours * 3600.0
    after = beat(60)
    for task in ("annotation.tasks.fill_stocks", "training.tasks.reconcile"):
        assert abs(after[task] - before[task]) <= 1
    assert after["training.tasks.reconcile"] >= 3


def test_no_message_waits_for_more_than_a_minute():
    for entry in app.conf.beat_schedule.values():
        assert 0 < entry["options"]["expires"] <= 60
