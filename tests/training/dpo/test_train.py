"""Training really trains, and writes what the run folder's contract promises."""

from tests.training.dpo.runs import PAIRS, read_json, read_rows, train_here


def test_a_run_ends_done_with_rising_margins(make_run):
    run = make_run(held_out=PAIRS[:2])
    train_here(run)
    rows = read_rows(run / "metrics.jsonl")
    assert rows[-1]["rewards/margins"] > rows[1]["rewards/margins"] + 0.1
    assert read_json(run / "status.json")["state"] == "done"
