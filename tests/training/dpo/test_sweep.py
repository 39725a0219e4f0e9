"""A sweep trains every combination once, shares what it can, and says what it knows."""

import json
import math
import os
import shutil
import signal
import threading
import time

import pytest

from tests.training.dpo.runs import (
    PAIRS,
    chat,
    read_json,
    read_rows,
    train_here,
    write_rows,
)
from training.dpo.__main__ import main
from training.dpo.config import parse_config
from training.dpo.defaults import settle
from training.dpo.errors import FolderLocked, Stopped, TrainerError
from training.dpo.lock import folder_lock
from training.dpo.process import StopFlag
from training.dpo.sweep import _finished, sweep
from training.dpo.sweep_options import parse_options, trials_of
from training.dpo.sweep_report import Trial, rank, table

LEARNT = [
    chat("How do I boil rice?", "1. water", "I do not know.", id="rice", weight=2),
    chat("How do I make soup?", "1. water 2. salt", "No. I do not know.", id="soup"),
    chat("What is tea?", "Here is a list: 1. tea", "I do not know.", id="what"),
    chat("What is tea?", "1. tea 2. water", "No.", id="what else"),
]
"""What PAIRS teach: lists rather than "I do not know". Four pairs of three prompts."""


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_a_rate_that_learns_beats_one_that_does_not(make_run, capsys):
    """Two trials at once. One loss, one beta: ranked by loss; 2e-3 learns, 1e-30 stays
    at ln 2. Tokens are made once, the reference is computed once, done is done."""
    run = make_run(held_out=LEARNT, epochs=10, batch_size=3)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    command = ["sweep", str(run), "--learning-rate", "1e-30,2e-3", "--jobs", "2"]
    assert main(command) == 0
    out = capsys.readouterr().out
    report = read_json(run / "sweep" / "sweep.json")
    first, second = report["trials"]
    assert report["ranked_by"] == "loss"
    assert first["values"] == {"learning_rate": 2e-3}
    assert second["loss"]["value"] == pytest.approx(math.log(2), abs=1e-4)
    assert second["to_best"]["told_apart"]
    assert second["to_best"]["loss"]["low"] > 0 > second["to_best"]["log_odds"]["high"]
    assert first["drift"]["rejected"] < -0.01 and second["drift"]["rejected"] == 0
    assert "Too few held-out prompts to rank by accuracy: with 3 only" in out
    assert out.index("learning_rate=0.002") < out.index("learning_rate=1e-30")

    told = [
        read_json(run / "sweep" / t["name"] / "summary.json") for t in (first, second)
    ]
    for ranked, summary in zip((first, second), told, strict=True):
        weighed = summary["held_out"]["end"]["loss"]
        assert ranked["loss"]["value"] == pytest.approx(weighed, rel=1e-6)
    assert sorted(t["reference"]["computed"] for t in told) == [0, 20]
    assert {t["reference"]["computed"] + t["reference"]["cached"] for t in told} == {20}
    rows = [run / "sweep" / name / "pairs.jsonl" for name in ("", first["name"])]
    assert rows[0].stat().st_ino == rows[1].stat().st_ino
    assert all(row["prompt_ids"] and row["prompt"] for row in read_rows(rows[0]))

    written = (run / "sweep" / first["name"] / "summary.json").stat().st_mtime_ns
    assert main(command) == 0
    again = (run / "sweep" / first["name"] / "summary.json").stat().st_mtime_ns
    assert again == written and capsys.readouterr().out == out
    signal.signal(signal.SIGTERM, before[0])
    signal.signal(signal.SIGINT, before[1])

    (run / "config.json").write_text(
        json.dumps(read_json(run / "config.json") | {"epochs": 2})
    )
    with pytest.raises(TrainerError, match="holds trials of another config.json"):
        sweep([str(run), "--learning-rate", "1e-30"], StopFlag())
    with (
        folder_lock(run / "sweep"),
        pytest.raises(FolderLocked, match="sweep is locked"),
    ):
        sweep([str(run), "--learning-rate", "1e-30"], StopFlag())


def test_a_killed_and_then_stopped_sweep_goes_on(make_run):
    """A trial killed with -9 is said, the next sweep is stopped and leaves a checkpoint,
    the third ends it: each step once, the first still that of the first process. Some
    prompts are held out at each start, the same ones: none of their pairs trains."""
    rows = [*PAIRS, *LEARNT]
    run = make_run(pairs=rows, epochs=150, batch_size=10, save_steps=20)
    arguments = [str(run), "--seed", "5", "--hold-out", "0.5"]
    trial = run / "sweep" / "seed=5"

    def kill():
        wait_for_lines(trial, 30)
        os.kill(read_json(trial / "status.json")["pid"], signal.SIGKILL)

    with pytest.raises(TrainerError, match="it was killed"):
        sweep_while(kill, arguments, StopFlag())
    line = (trial / "metrics.jsonl").read_bytes().splitlines()[0]
    lines = (trial / "metrics.jsonl").read_bytes().count(b"\n")
    stop = StopFlag()

    def ask_to_stop():
        wait_for_lines(trial, lines + 5)
        stop.requested = True

    with pytest.raises(Stopped, match="stopped with 0 of 1 trials done"):
        sweep_while(ask_to_stop, arguments, stop)
    assert read_json(trial / "status.json")["state"] == "stopped"
    sweep(arguments, StopFlag())
    report = read_json(run / "sweep" / "sweep.json")
    assert report["trials"][0]["steps"] == 150
    trained, measured = (
        {row["id"] for row in read_rows(trial / f"{name}_scored.jsonl")}
        for name in ("pairs", "held_out")
    )
    assert trained | measured == {row["id"] for row in rows}
    assert not trained & measured and len(measured) == report["held_out"]["pairs"] > 0
    assert [row["step"] for row in read_rows(trial / "metrics.jsonl")] == list(
        range(1, 151)
    )
    assert (trial / "metrics.jsonl").read_bytes().splitlines()[0] == line


def sweep_while(other, arguments, stop):
    thread = threading.Thread(target=other)
    thread.start()
    try:
        sweep(arguments, stop)
    finally:
        thread.join()


def wait_for_lines(trial, count):
    deadline = time.monotonic() + 300
    path = trial / "metrics.jsonl"
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def trial(name, rows, prompts=None, weights=None, **config):
    """A finished trial of beta 0.1 with (right, margin, loss) of each held-out pair."""
    keys = ("right", "margin", "loss")
    return Trial(
        name,
        {"name": name},
        {"loss": "sigmoid", "beta": 0.1, "reference": "start"} | config,
        [
            {"id": str(n), "line": n, **dict(zip(keys, row, strict=True))}
            for n, row in enumerate(rows)
        ],
        list(range(len(rows))) if prompts is None else prompts,
        weights or [1.0] * len(rows),
        {"drift": {"chosen": 0.1, "rejected": -0.2}, "steps": 10, "lowest_loss": None},
    )


RIGHT, TIE, WRONG = (1.0, 0.5, 0.3), (0.5, 0.0, 0.7), (0.0, -0.5, 1.1)


def test_losses_decide_where_they_can_be_compared_and_accuracies_elsewhere():
    """`sure` is right in 9 of 10 with a mean loss of 0.38, `often` in all with one of
    0.45: by loss `sure` is first. With another beta only accuracies compare."""
    sure = [(1.0, 2.0, 0.3)] * 9 + [WRONG]
    often = [(1.0, 0.5, 0.45)] * 10
    same = rank([trial("often", often), trial("sure", sure)])
    assert same["ranked_by"] == "loss"
    assert [t["name"] for t in same["trials"]] == ["sure", "often"]
    assert same["trials"][1]["to_best"]["loss"]["value"] == pytest.approx(0.07)
    for other in (
        *({"beta": 0.3}, {"loss": "ipo"}, {"label_smoothing": 0.1}),
        *({"desirable_weight": 0.5}, {"undesirable_weight": 0.5}),
    ):
        apart = rank([trial("sure", sure), trial("often", often, **other)])
        assert apart["ranked_by"] == "accuracy"
        assert [t["name"] for t in apart["trials"]] == ["often", "sure"]
        assert "loss" not in apart["trials"][1]["to_best"]
    for other in ({"sft_epochs": 1}, {"parent_adapter": "policy-0003"}):
        apart = rank([trial("sure", sure), trial("often", often, **other)])
        assert apart["ranked_by"] == "accuracy"
        assert "Not all trials have the same reference" in " ".join(apart["says"])
    for other in ({"learning_rate": 1.0}, {"reference": "base"}):  # a fresh start is it
        assert (
            rank([trial("a", sure), trial("b", often, **other)])["ranked_by"] == "loss"
        )


def test_what_was_settled_decides_whether_references_are_the_same(tmp_path):
    """200 pairs make batches of 2 for one epoch and 4 for three where no size is given:
    supervised training then ends elsewhere, and with it begins the reference."""
    trials = []
    config = {"base_model": "m", "sft_epochs": 1}
    for epochs in (1, 3):
        folder, values = tmp_path / f"epochs={epochs}", {"epochs": epochs}
        folder.mkdir()
        settled = settle(parse_config(config | values), 2_000_000, 200)
        write_rows(folder / "held_out.jsonl", [{"prompt": "a"}])
        row = {"id": "1", "line": 1, "right": 1.0, "margin": 0.5, "loss": 0.3}
        write_rows(folder / "held_out_scored.jsonl", [row])
        write_rows(folder / "metrics.jsonl", [{"phase": "dpo"}])
        told = {"held_out": {"end": {}}, "final": {}, "chosen": settled.as_dict()}
        told |= {"steps": 1, "seconds": {}, "reference": {}}
        write_rows(folder / "summary.json", [told])
        trials.append(_finished(folder, values, config, {1: "a"}))
    assert [trial.config["batch_size"] for trial in trials] == [2, 4]
    report = rank(trials)
    assert report["ranked_by"] == "accuracy"
    assert "Not all trials have the same reference" in " ".join(report["says"])


def test_pairs_trained_as_single_answers_compare_as_pairs(tmp_path):
    """Two pairs: sigmoid's margins are 0.10, KTO's two rewards of each 0.08 and -0.07,
    so 0.15 apart. Taken one by one they were half of that, and 4 rows beside 2."""
    trials = []
    for loss in ("sigmoid", "kto"):
        folder, rows = tmp_path / f"loss={loss}", []
        folder.mkdir()
        for line in (1, 2):
            row = {"id": str(line), "line": line, "right": 1.0, "loss": 0.4}
            if loss == "sigmoid":
                rows.append(row | {"margin": 0.1})
                continue
            for label, reward in ((True, 0.08), (False, -0.07)):
                rows.append(row | {"label": label, "reward": reward, "margin": 0.07})
        write_rows(folder / "held_out_scored.jsonl", rows)
        write_rows(folder / "held_out.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
        write_rows(folder / "metrics.jsonl", [{"phase": "dpo"}])
        told = {"held_out": {"end": {}}, "final": {}, "chosen": {}}
        told |= {"steps": 1, "seconds": {}, "reference": {}}
        write_rows(folder / "summary.json", [told])
        prompts, config = {1: "a", 2: "b"}, {"base_model": "m"}
        trials.append(_finished(folder, {"loss": loss}, config, prompts))
    report = rank(trials)
    assert report["ranked_by"] == "accuracy"
    assert report["held_out"] == {"pairs": 2, "prompts": 2}
    first, second = report["trials"]
    assert (first["name"], second["name"]) == ("loss=kto", "loss=sigmoid")
    assert first["log_odds"]["value"] == pytest.approx(1.5)
    assert second["to_best"]["log_odds"]["value"] == pytest.approx(-0.5)
    assert first["loss"]["value"] == pytest.approx(0.4)


def test_equal_accuracies_are_ordered_by_log_odds():
    """Margins 0.5 at beta 0.1 are 5 nats, 0.9 at beta 0.3 are 3."""
    found = rank(
        [
            trial("more beta", [(1.0, 0.9, 0.3)] * 4, beta=0.3),
            trial("less beta", [(1.0, 0.5, 0.3)] * 4),
        ]
    )["trials"]
    assert [t["name"] for t in found] == ["less beta", "more beta"]
    assert [t["log_odds"]["value"] for t in found] == pytest.approx([5.0, 3.0])


def test_few_prompts_are_said_to_be_too_few():
    """Eight prompts that two trials disagree on twice: (2 + 1) / (8 + 2) = 0.3 is the
    variance planned with, so 2.8 · √0.3 / √8 = 0.54 could be seen, and for 0.05 it takes
    (2.8 · √0.3 / 0.05)² = 940.8, so 941 prompts."""
    report = rank(
        [
            trial("a", [RIGHT] * 6 + [WRONG] * 2),
            trial("b", [RIGHT] * 4 + [WRONG] * 4, beta=0.2),
        ]
    )
    assert report["smallest_visible_difference"] == pytest.approx(0.542, abs=1e-3)
    assert report["prompts_for_a_difference_of_0.05"] == 941
    assert report["says"][0].startswith(
        "Too few held-out prompts to rank by accuracy: with 8 only differences of 0.54 or"
        " more could be seen; to see one of 0.05, some 941 prompts are needed."
    )
    assert report["says"][1].startswith(
        "These cannot be told apart from the best, a, at 95%: b."
    )
    # gap 0.25: (2.8 · √0.3 / 0.25)² = 37.6
    assert (
        "(accuracies 0.25 apart), some 38 prompts would be needed" in report["says"][2]
    )


def test_pairs_of_one_prompt_are_no_further_evidence():
    """Forty pairs of four prompts can show no more than four prompts."""
    many = [RIGHT] * 20 + [WRONG] * 20
    few = rank([trial("a", many, [n // 10 for n in range(40)]), trial("b", many)])
    assert few["held_out"] == {"pairs": 40, "prompts": 4}
    assert few["smallest_visible_difference"] > 0.5


def test_a_clear_winner_is_called_one():
    """100 prompts, 80 right against 20, disagreeing on 60: the interval is far from 0."""
    good, bad = [RIGHT] * 80 + [WRONG] * 20, [WRONG] * 60 + [RIGHT] * 20 + [WRONG] * 20
    report = rank([trial("bad", bad, beta=0.5), trial("good", good)])
    assert report["says"] == ["good is better than each of the others at 95%."]
    other = report["trials"][1]
    assert other["to_best"]["told_apart"]
    assert other["to_best"]["accuracy"]["value"] == pytest.approx(-0.6)
    lines = table(report).splitlines()
    assert lines[1].split()[:3] == ["1", "good", "0.800"]
    assert "+0.10 -0.20" in lines[1] and "-0.600 (" in lines[2]


def test_what_trained_past_its_best_or_compares_other_things_is_said():
    late = trial("late", [RIGHT] * 30)
    late.told["lowest_loss"] = {"step": 4, "loss": 0.2, "before_end": True}
    free = trial("free", [RIGHT] * 30, loss="simpo", reference="none")
    cut = trial("cut", [RIGHT] * 29, beta=0.2)
    says = " ".join(rank([late, free, cut])["says"])
    assert "late trained past its best: its held-out loss was lowest at step 4" in says
    assert "Not all trials have the same reference" in says
    assert "Trials measured on other rows are listed without a difference" in says


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "at least one option with values to try"),
        (["--bta", "1"], "Unknown option --bta; the nearest known one is --beta."),
        (["--lr", "1"], 'Unknown option --lr; its key is "learning_rate".'),
        (["--beta", "0.1", "more"], 'takes one RUN_DIR; "more" is one too many'),
        (["--max-length", "5"], "--max-length cannot be swept: it decides which"),
        (["--beta", "0.1,,2"], '--beta "0.1,,2" has an empty value'),
        (["--beta", "0.1,-1"], '--beta -1: "beta" must be a number above 0'),
        (["--epochs", "many"], '--epochs many: "epochs" must be a number'),
        (["--loss", "sigmoid,igo"], '--loss igo: "loss" knows no "igo"; the nearest'),
        (["--lora.r", "0"], '--lora.r 0: "lora.r" must be a whole number'),
        (["--beta", "1", "--jobs", "0"], '--jobs must be a number from 1, not "0"'),
        (["--beta", "1", "--hold-out", "2"], "--hold-out must be a number in 0 to 1"),
        (["--seed", ",".join(map(str, range(201)))], "makes 201 trials; at most 200"),
    ],
)
def test_bad_options_are_named(arguments, said):
    with pytest.raises(TrainerError) as error:
        options = parse_options(["somewhere", *arguments])
        trials_of({"base_model": "base"}, options.swept)
    assert said in str(error.value)


def test_under_torchrun_it_is_refused(make_run, monkeypatch, capsys):
    """Its processes would wait for each other, and for the trials, for ever."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "any")
    assert main(["sweep", str(make_run(held_out=LEARNT)), "--beta", "0.1,0.2"]) == 1
    assert "start it without torchrun" in capsys.readouterr().err.splitlines()[-1]
    signal.signal(signal.SIGTERM, before[0])
    signal.signal(signal.SIGINT, before[1])


def test_trials_are_all_combinations_under_lasting_names():
    """The order of options does not matter, nor how a number is written."""
    one = parse_options(["x", "--beta", "0.10,0.1,0.3", "--learning-rate=1e-4"])
    two = parse_options(["x", "--learning-rate", "0.0001", "--beta", "0.3,0.1"])
    config = {"base_model": "base", "lora": {"alpha": 8}}
    names = ["beta=0.1,learning_rate=0.0001", "beta=0.3,learning_rate=0.0001"]
    assert list(trials_of(config, one.swept)) == names
    assert sorted(trials_of(config, two.swept)) == names
    (odd,) = trials_of(config, {"parent_adapter": ["some where/else"]})
    assert "/" not in odd and " " not in odd


def test_mixes_and_lists_are_values_too():
    """Their commas were taken for those between values: no mix could be swept."""
    given = ["--loss", 'sigmoid,{"sigmoid":1,"sft":0.2}, ipo']
    given += ["--lora.target-modules", '["q_proj","v_proj"],all-linear']
    swept = parse_options(["x", *given]).swept
    mix = {"sigmoid": 1, "sft": 0.2}
    modules = [["q_proj", "v_proj"], "all-linear"]
    assert swept == {"loss": ["sigmoid", mix, "ipo"], "lora.target_modules": modules}
    trials = trials_of({"base_model": "base"}, swept)
    assert len(trials) == 6 and {
        "loss": mix,
        "lora.target_modules": modules[0],
    } in list(trials.values())


def test_another_model_under_the_same_name_is_another_sweep(
    make_run, base_model, tmp_path
):
    """Its trials were ranked beside those of the first, on rows that the first one's
    tokenizer had made. Stopped before a trial starts."""
    base = tmp_path / "base"
    shutil.copytree(base_model, base)
    run = make_run(held_out=LEARNT, base_model=str(base))
    stop = StopFlag()
    stop.check = lambda: None
    stop.requested = True
    for _ in range(2):  # the same model goes on
        with pytest.raises(Stopped):
            sweep([str(run), "--beta", "0.1"], stop)
    template = base / "chat_template.jinja"
    template.write_text(template.read_text() + "{# #}")
    with pytest.raises(TrainerError, match="another model in the folder it names"):
        sweep([str(run), "--beta", "0.1"], stop)


def test_without_held_out_pairs_it_says_how_to_get_some(make_run, capsys):
    run = make_run()
    with pytest.raises(TrainerError, match="has no held_out.jsonl.* --hold-out 0.2"):
        sweep([str(run), "--beta", "0.1,0.2"], StopFlag())
    held = make_run("held", held_out=LEARNT)
    with pytest.raises(TrainerError, match="leave --hold-out away"):
        sweep([str(held), "--beta", "0.1", "--hold-out", "0.2"], StopFlag())
    with pytest.raises(TrainerError, match="too few prompts"):
        sweep([str(run), "--beta", "0.1", "--hold-out", "1e-9"], StopFlag())


def test_hold_out_sets_whole_prompts_aside(make_run):
    """Both pairs of "What is tea?" go to one side, lines keep their numbers, and
    pairs.jsonl itself stays. Stopped before a trial starts."""
    rows = [*PAIRS, *LEARNT]
    run = make_run(pairs=rows, epochs=1)
    stop = StopFlag()

    def read(name):
        lines = (run / "sweep" / name).read_text("utf-8").split("\n")
        return {n: json.loads(line)["id"] for n, line in enumerate(lines, 1) if line}

    stop.requested = False
    watcher = threading.Thread(target=stop_when, args=(run / "sweep", stop))
    watcher.start()
    with pytest.raises(Stopped):
        sweep([str(run), "--beta", "0.1", "--hold-out", "0.5"], stop)
    watcher.join()
    trained, held = read("pairs.jsonl"), read("held_out.jsonl")
    ids = {n: row["id"] for n, row in enumerate(rows, 1)}
    assert trained | held == ids and not trained.keys() & held.keys()
    assert (
        trained and held and ("what" in held.values()) == ("what else" in held.values())
    )
    assert len(read_rows(run / "pairs.jsonl")) == len(rows)


def stop_when(folder, stop):
    while not (folder / "made_of.json").exists():
        time.sleep(0.002)
    stop.requested = True


def test_a_bad_row_is_named_before_anything_trains(make_run):
    run = make_run(held_out=LEARNT)
    write_rows(run / "pairs.jsonl", [PAIRS[0], {"prompt": "x", "chosen": "y"}])
    with pytest.raises(TrainerError, match='pairs.jsonl line 2: "rejected" is missing'):
        sweep([str(run), "--beta", "0.1,0.2"], StopFlag())


def test_where_no_held_out_pair_is_left_it_says_so_before_or_of_the_trial(make_run):
    """Pairs are looked at before a trial trains; single answers by the trial alone."""
    long = chat("What is tea? " * 100, "1. tea", "No.")
    run = make_run(held_out=[long], max_length=60)
    with pytest.raises(TrainerError, match="held_out.jsonl holds no pair for the"):
        sweep([str(run), "--beta", "0.1"], StopFlag())
    assert not (run / "sweep" / "beta=0.1").exists()
    answers = [
        {"prompt": row["prompt"], "completion": row["chosen"], "label": label}
        for row, label in ((PAIRS[0], True), (PAIRS[3], False), (long, True))
    ]
    single = {"loss": "kto", "epochs": 1, "max_length": 60}
    run = make_run("single", answers[:2], answers[2:], **single)
    with pytest.raises(TrainerError, match="all held-out pairs were dropped"):
        sweep([str(run), "--beta", "0.1"], StopFlag())


def test_a_trial_begins_in_its_own_folder(make_run):
    """Not where the run folder's config.json goes on from."""
    first = make_run("first", epochs=1)
    train_here(first)
    run = make_run("run", held_out=LEARNT, epochs=1, beta=0.2, resume_from=str(first))
    sweep([str(run), "--beta", "0.3"], StopFlag())
    assert read_json(run / "sweep" / "sweep.json")["failed"] == []
