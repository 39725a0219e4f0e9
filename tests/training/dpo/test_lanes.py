"""Passes at once give what passes one after the other give."""

import threading
import time

import pytest
import torch

from tests.training.dpo.runs import read_json, read_rows, train_here
from tests.training.dpo.test_engine import engine_of, make_model, make_rows
from tests.training.dpo.test_resume import StopAfter, without_speed
from training.dpo import lanes
from training.dpo.checkpoint import newest_checkpoint
from training.dpo.errors import Stopped
from training.dpo.lanes import side_by_side
from training.dpo.run import run_folder


@pytest.fixture
def three_threads():
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(1)


def test_results_come_in_the_order_of_the_parts():
    """The first of seven is the slowest; three run at once, no fourth."""
    running, most = [], []

    def work(part):
        running.append(part)
        most.append(len(running))
        time.sleep(0.2 if part == 0 else 0.02)
        running.remove(part)
        return part, threading.get_ident()

    found = list(side_by_side(work, range(7), 3))
    assert [part for part, _ in found] == list(range(7))
    assert max(most) == 3 and len({thread for _, thread in found}) == 3
    assert threading.get_ident() not in {thread for _, thread in found}


@pytest.mark.parametrize(("parts", "at_once"), [(1, 4), (5, 1), (0, 4)])
def test_one_part_or_one_lane_needs_no_thread(parts, at_once):
    found = list(side_by_side(lambda _: threading.get_ident(), range(parts), at_once))
    assert found == [threading.get_ident()] * parts


def test_an_exception_comes_out_in_its_turn_and_nothing_goes_on_behind_it():
    begun, ended = [], []

    def work(part):
        begun.append(part)
        if part == 1:
            raise ZeroDivisionError
        time.sleep(0.1)
        ended.append(part)
        return part

    got = side_by_side(work, range(50), 2)
    assert next(got) == 0
    with pytest.raises(ZeroDivisionError):
        next(got)
    assert len(begun) <= 2 + lanes.AHEAD * 2
    assert sorted(ended) == sorted(set(begun) - {1})


def test_lanes_record_gradients_as_their_caller_does_and_share_its_threads(
    three_threads,
):
    """Three threads on two lanes: one each. Afterwards all is as before, here and for
    threads to come."""

    def work(_):
        return torch.is_grad_enabled(), torch.get_num_threads()

    assert list(side_by_side(work, range(2), 2)) == [(True, 1)] * 2
    with torch.no_grad():
        assert list(side_by_side(work, range(2), 2)) == [(False, 1)] * 2
    assert torch.get_num_threads() == 3
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [3]


def one_each(rows):
    return [[row] for row in rows]


def test_scores_of_passes_at_once_are_those_of_passes_alone(three_threads):
    engine = engine_of(make_model("llama"), lanes=3)
    assert (engine.kind, engine.lanes) == ("fused", 3)
    passes = one_each(make_rows() * 20)
    at_once = list(engine.score_each(passes))
    torch.set_num_threads(1)
    for scores, rows in zip(at_once, passes, strict=True):
        assert not scores.token_logps.requires_grad
        with torch.no_grad():
            assert torch.equal(scores.token_logps, engine.score(rows).token_logps)
    assert torch.is_grad_enabled()


def test_a_model_keeps_its_own_attention_after_passes_at_once(three_threads):
    model = make_model("llama")
    engine = engine_of(model, lanes=3)
    text = model.get_base_model().config
    before = text._attn_implementation_internal
    scored = engine.score_each(one_each(make_rows()))
    next(scored)
    scored.close()
    assert text._attn_implementation_internal == before


@pytest.mark.parametrize("family", ["granite", "gemma2"], ids=["tree", "rows"])
def test_only_our_own_layers_run_several_passes_at_once(family):
    assert engine_of(make_model(family), lanes=3).lanes == 1


CONFIG = {"batch_size": 3, "epochs": 4, "learning_rate": 1e-2, "micro_batch_size": 1}


@pytest.mark.parametrize(
    "loss", ["sigmoid", "aot", "kto"], ids=["pairs", "coupled", "answers"]
)
def test_a_run_with_passes_at_once_is_the_run_without(make_run, three_threads, loss):
    """Every line of metrics and every weight, supervised steps included. AdamW's fused
    kernel reads a gradient as the weight lies in memory: B's comes transposed."""
    runs = {}
    for at_once in (True, False):
        savings = {"side_by_side": at_once}
        runs[at_once] = make_run(
            str(at_once), **CONFIG, loss=loss, sft_epochs=1, savings=savings
        )
        train_here(runs[at_once])
    lanes_of = {
        at_once: read_json(run / "summary.json")["forward"]["lanes"]
        for at_once, run in runs.items()
    }
    assert lanes_of == {True: 3, False: 1}
    rows, others = (read_rows(run / "metrics.jsonl") for run in runs.values())
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys() and row["phase"] == other["phase"]
        for name in row.keys() - {"phase", "pairs_per_second"}:
            # None: of answers that a step has none of
            value, wanted = (float(line[name] or 0) for line in (row, other))
            assert value == pytest.approx(wanted, rel=1e-4, abs=1e-5), name


def test_a_resumed_run_keeps_its_lanes(make_run, three_threads):
    """Whatever torch would take now."""
    alone, run = make_run("alone", **CONFIG), make_run(**CONFIG)
    train_here(alone)
    with pytest.raises(Stopped):
        run_folder(run, StopAfter(20))
    assert newest_checkpoint(run / "checkpoints") is not None
    torch.set_num_threads(1)
    train_here(run)
    assert read_json(run / "summary.json")["forward"]["lanes"] == 3
    assert without_speed(run) == without_speed(alone)
