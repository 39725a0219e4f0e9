"""Single answers with a label: reading, strays, a step's split, a run's files."""

import json
from dataclasses import replace

import pytest
import torch

from tests.training.dpo.runs import PAIRS, read_json, read_rows, train_here, write_run
from tests.training.dpo.test_step import assert_same, stepped
from training.dpo.base import load_tokenizer
from training.dpo.batches import Schedule
from training.dpo.config import load_config, parse_config
from training.dpo.data import Answer, read_pairs
from training.dpo.defaults import settle
from training.dpo.errors import Stopped, TrainerError
from training.dpo.prepare import prepare
from training.dpo.process import StopFlag
from training.dpo.reference import FixedLogps
from training.dpo.run import run_folder
from training.dpo.status import StatusFile
from training.dpo.step import backward_step
from training.dpo.strays import with_strays

ANSWERS = [
    {"id": str(n), "prompt": row["prompt"], "completion": row[side], "label": label}
    for n, (row, side, label) in enumerate(
        [
            (PAIRS[0], "chosen", True),
            (PAIRS[1], "rejected", False),
            (PAIRS[2], "chosen", True),
            (PAIRS[3], "rejected", False),
            (PAIRS[4], "chosen", True),
            (PAIRS[5], "chosen", True),
        ]
    )
]


def answer(name, prompt, length=3):
    ids = [ord(name)] * length
    return Answer(name, 1, prompt, ids, [], 1.0, True, ids)


def strays(answers, batches, max_length=100):
    given = with_strays(answers, batches, max_length)
    return "".join(chr(a.rejected_ids[0]) for a in given)


def test_a_stray_is_the_answer_before_in_the_step():
    """(x₁, yₙ), (x₂, y₁), … within each batch, as TRL pairs them."""
    answers = [answer(name, [n]) for n, name in enumerate("abcde")]
    assert strays(answers, [[0, 1, 2], [3, 4]]) == "cabed"


def test_a_stray_has_another_prompt_where_there_is_one():
    """b has a's prompt: b's stray is not a but c, the next one back in the circle. The
    lone e takes the one before it in the epoch's order; g and h have only each other."""
    answers = [
        answer("a", [1]),
        answer("b", [1]),
        answer("c", [2]),
        answer("e", [3]),
    ]
    assert strays(answers, [[0, 1, 2], [3]]) == "ccbc"
    assert strays([answer("g", [1]), answer("h", [1])], [[0, 1]]) == "hg"
    assert strays([answer("g", [1])], [[0]]) == "g"


def test_a_stray_is_cut_to_its_new_prompt():
    """From the answer as it was before its own prompt cut it: 10 − 4 tokens of 9."""
    long = Answer("a", 1, [1] * 8, [5] * 2, [], 1.0, True, [5] * 9)
    given = with_strays([long, answer("b", [2] * 4)], [[0, 1]], 10)
    assert [len(a.rejected_ids) for a in given] == [2, 6]


def test_batches_stay_together_in_later_epochs():
    """Their order changes, so that strays and their reference log-probs stay valid."""
    schedule = Schedule(7, 3, 4, seed=1, shuffle=True, keeps_batches=True)
    first = schedule.first_epoch()
    assert sorted(sum(first, [])) == list(range(7))
    orders = [[schedule.step_pairs(3 * e + n) for n in range(3)] for e in range(4)]
    assert all(sorted(order) == sorted(first) for order in orders)
    assert any(order != first for order in orders)


def test_rows_are_answers_with_labels(tokenizer, make_run):
    folder = make_run(pairs=ANSWERS)
    rows, report = read_pairs(folder / "pairs.jsonl", tokenizer, 60, 320, unpaired=True)
    assert [row.label for row in rows] == [True, False, True, False, True, True]
    assert [row.id for row in rows] == list("012345")
    assert report.used == report.read == 6
    text = tokenizer.decode(rows[0].chosen_ids)
    assert text == "1. water 2. time<|im_end|>\n"


def test_a_row_of_a_pair_becomes_two_answers(tokenizer, make_run):
    """Chosen and rejected, in this order, each with the pair's id and weight."""
    folder = make_run(pairs=[{**PAIRS[0], "weight": 2.0}])
    rows, report = read_pairs(folder / "pairs.jsonl", tokenizer, 60, 320, unpaired=True)
    assert [(row.id, row.label, row.weight) for row in rows] == [
        ("egg", True, 2.0),
        ("egg", False, 2.0),
    ]
    paired, _ = read_pairs(folder / "pairs.jsonl", tokenizer, 60, 320)
    assert rows[0].chosen_ids == paired[0].chosen_ids
    assert rows[1].chosen_ids == paired[0].rejected_ids
    assert report.used == 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (PAIRS[0], "a pair, where the rows before have one answer with a label"),
        ({**ANSWERS[0], "label": 1}, '"label" must be true or false, not 1'),
        ({"prompt": "a", "label": True}, '"completion" is missing'),
        ({"completion": "a", "label": True}, '"prompt" is missing'),
        ({**ANSWERS[0], "completion": [1]}, '"completion" must hold messages'),
        (
            {"prompt_ids": [1], "label": True},
            '"completion_ids" is missing; give all of prompt_ids, completion_ids',
        ),
    ],
)
def test_a_malformed_answer_is_named_by_line_and_field(row, said, tokenizer, make_run):
    folder = make_run(pairs=[ANSWERS[0], row])
    with pytest.raises(TrainerError) as raised:
        read_pairs(folder / "pairs.jsonl", tokenizer, 60, 320, unpaired=True)
    assert "pairs.jsonl line 2" in str(raised.value)
    assert said in str(raised.value)


def test_a_step_does_not_depend_on_its_split(make_run):
    """Weights differ; the KL estimate is the whole step's."""
    rows = [{**row, "weight": 1.0 + place} for place, row in enumerate(ANSWERS)]
    common = {"loss": "kto", "batch_size": 6, "shuffle": False}
    whole = stepped(make_run("whole", rows, **common))
    split = stepped(make_run("split", rows, micro_batch_size=1, **common))
    assert_same(whole, split)


def test_the_kl_is_a_mean_over_strays_by_their_answers_weights(make_run):
    """The policy is its reference, which is told to find the six strays less likely by 1
    to 6: (1·1 + 2·2 + … + 6·6) / (1 + … + 6) = 91 / 21."""
    rows = [{**row, "weight": 1.0 + place} for place, row in enumerate(ANSWERS)]
    folder = make_run("kl", rows, loss="kto", batch_size=6, shuffle=False)
    run = prepare(
        folder, load_config(folder / "config.json"), StopFlag(), StatusFile(folder)
    ).run
    known = run.data.reference
    lower = FixedLogps(known.chosen, known.rejected - torch.arange(1.0, 7.0))
    run.data = replace(run.data, reference=lower)
    kl = backward_step(run, list(range(6))).metrics()["kl"]
    assert kl == pytest.approx(91 / 21, abs=1e-4)


def test_a_weight_of_3_is_the_answer_three_times_where_nothing_is_shared(make_run):
    rows = [{**ANSWERS[0], "weight": 3.0}, *ANSWERS[1:4]]
    thrice = [{**ANSWERS[0], "id": str(n)} for n in (7, 8, 9)] + ANSWERS[1:4]
    loss = {"loss": "apo_zero_unpaired"}
    one = stepped(make_run("weighted", rows, **loss))
    assert_same(one, stepped(make_run("thrice", thrice, **loss)))


def test_where_nothing_reads_a_kl_no_stray_is_computed(make_run, monkeypatch):
    """Of six answers and two held out six log-probs are taken; with strays, as KTO has
    them, the figures are the same."""
    config = {"loss": "apo_zero_unpaired", "epochs": 4, "batch_size": 4}
    config |= {"learning_rate": 1e-2, "eval_steps": 2}
    plain = make_run("plain", ANSWERS, ANSWERS[:2], **config)
    train_here(plain)
    monkeypatch.setattr("training.dpo.prepare.needs_kl", lambda objective: True)
    strayed = make_run("strayed", ANSWERS, ANSWERS[:2], **config)
    train_here(strayed)
    computed, more = (
        read_json(run / "summary.json")["reference"]["computed"]
        for run in (plain, strayed)
    )
    assert computed == 6 < more
    assert read_json(plain / "preflight.json")["tokens"]["shared"] == 0
    for name in ("metrics.jsonl", "pairs_scored.jsonl", "held_out_scored.jsonl"):
        one, other = read_rows(plain / name), read_rows(strayed / name)
        assert len(one) == len(other)
        for line, its in zip(one, other, strict=True):
            line.pop("pairs_per_second", None)
            for key in line.keys() - {"id", "phase"}:
                assert its[key] == pytest.approx(line[key], rel=1e-5, abs=1e-5), key


@pytest.fixture(scope="module")
def kto_run(base_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kto") / "run"
    options = {"loss": "kto", "epochs": 12, "batch_size": 4, "learning_rate": 1e-2}
    write_run(folder, base_model, ANSWERS, ANSWERS[:3], **options)
    train_here(folder)
    return folder


def test_a_run_of_answers_teaches_and_tells(kto_run):
    lines = read_rows(kto_run / "metrics.jsonl")
    assert lines[0]["loss"] == pytest.approx(0.5)
    assert lines[0]["kl"] == 0
    assert lines[-1]["rewards/margins"] > lines[0]["rewards/margins"]
    assert lines[-1]["eval_rewards/accuracies"] == 1
    assert lines[-1]["eval_kl"] is not None
    scored = read_rows(kto_run / "pairs_scored.jsonl")
    assert [row["id"] for row in scored] == list("012345")
    assert [row["label"] for row in scored] == [a["label"] for a in ANSWERS]
    assert all((row["reward"] > 0) == row["label"] for row in scored)
    summary = read_json(kto_run / "summary.json")
    assert summary["rows"]["pairs.jsonl"]["used"] == 6
    assert summary["held_out"]["difference"]["loss"]["value"] < 0


def test_resumed_answers_go_on_as_if_never_stopped(kto_run, make_run):
    """From the checkpoint of a folder that stopped: steps, strays and order agree."""
    folder = make_run(
        "resumed",
        ANSWERS,
        ANSWERS[:3],
        loss="kto",
        epochs=12,
        batch_size=4,
        learning_rate=1e-2,
        save_steps=5,
    )

    class AfterStep(StopFlag):
        @property
        def requested(self):
            return (folder / "checkpoints" / "step-00000005").exists()

        @requested.setter
        def requested(self, value):
            pass

    with pytest.raises(Stopped):
        run_folder(folder, AfterStep())
    train_here(folder)
    one, other = (read_rows(f / "metrics.jsonl") for f in (kto_run, folder))
    for line in (*one, *other):
        line.pop("pairs_per_second")
    assert one == other


def test_pairs_trained_as_answers_are_scored_as_pairs(make_run):
    """What the application reads: each pair once, with its margin."""
    folder = make_run(pairs=PAIRS, held_out=PAIRS[:2], loss="kto", epochs=1)
    train_here(folder)
    scored = read_rows(folder / "pairs_scored.jsonl")
    assert [row["id"] for row in scored] == [row["id"] for row in PAIRS]
    for row in scored:
        apart = row["rewards/chosen"] - row["rewards/rejected"]
        assert row["margin"] == pytest.approx(apart)
    held = read_rows(folder / "held_out_scored.jsonl")
    assert [(row["id"], row["label"]) for row in held] == [
        ("egg", True),
        ("egg", False),
        ("蛋", True),
        ("蛋", False),
    ]
    assert json.loads((folder / "status.json").read_text())["state"] == "done"


def test_supervised_training_takes_the_desirable_answers(make_run):
    folder = make_run(pairs=ANSWERS, loss="kto", sft_epochs=1, epochs=1, batch_size=2)
    train_here(folder)
    phases = read_json(folder / "summary.json")["phases"]
    assert [(p["phase"], p["steps"]) for p in phases] == [("sft", 2), ("dpo", 3)]


def test_kto_is_given_steps_that_hold_something_to_compare():
    config = parse_config({"base_model": "m", "loss": "kto"})
    assert settle(config, 10**6, 20).batch_size == 4
    with pytest.raises(TrainerError, match="at least 2"):
        parse_config({"base_model": "m", "loss": "kto", "batch_size": 1})


def test_a_pair_whose_prompt_loses_its_end_is_counted_once(family, tmp_path):
    """Gemma's template here opens a thought where the prompt stands alone."""
    folder = write_run(tmp_path / "run", family("gemma2"), PAIRS[:2], loss="kto")
    tokenizer = load_tokenizer(str(family("gemma2")))
    _, report = read_pairs(folder / "pairs.jsonl", tokenizer, 60, 400, unpaired=True)
    assert report.left_out_of_prompt == [1, 2]
