"""How `make bench trainer` counts operations and judges turns. Nothing is timed here."""

import json

import pytest

from tests.bench import operations, trainer
from tests.bench.cells import cells_of
from tests.bench.figures import ROOT, Budget, Figure, from_object, markdown
from tests.bench.jobs import Worker
from tests.bench.material import MODELS, SHAPES, ModelShape, pairs_of
from tests.bench.operations import Passed, padded, shared
from tests.bench.options import kept_figures, parse
from tests.bench.pace import Pace
from tests.bench.processes import BenchError
from tests.bench.trainer_figures import (
    Rates,
    cell_figures,
    largest_difference,
    saving_figures,
    saving_settings,
)
from tests.bench.trainer_sides import Turn

ONE = ModelShape(1, 2, 3, 1, 1, 5, rank=1)
"""One layer: q, k, v, o of 2 × 2, gate and up of 2 × 3, down of 3 × 2: 34 weights, of
which k and v have 8; inputs plus outputs 4 · 4 + 3 · 5 = 31, of which k and v 8."""


def pair(prompt, chosen, rejected):
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


def test_trl_pads_both_sides_of_a_micro_batch_to_its_longest_row():
    """Rows of 3 and 4 tokens, then of 2 and 2. Together: four rows of 4, 16 tokens, each
    row sees 1 + 2 + 3 + 4 = 10; the head takes all but the last of each, 12, or the
    2 + 1 + 1 + 1 answer tokens. One by one: 2 · 4 + 2 · 2 tokens, 2 · 10 + 2 · 3 seen,
    2 · 3 + 2 · 1 through the head."""
    rows = [pair([1, 2], [3], [4, 5]), pair([1], [2], [3])]
    assert padded(rows, 2, True) == Passed(tokens=16, seen=40, heads=12)
    assert padded(rows, 2, False) == Passed(tokens=16, seen=40, heads=5)
    assert padded(rows, 1, True) == Passed(tokens=12, seen=26, heads=8)


def test_ours_takes_every_distinct_prefix_once():
    """Prompt 1 2, answers 3 4 and 3 5 6: tokens 1, 2, 3, 4, 5, 6 at depths 1 2 3 4 4 5,
    which see as many: 19. Five answer tokens are scored though one is shared. Of the
    prompt, token 1 needs only its key and value in the last layer, and sees 1."""
    rows = [pair([1, 2], [3, 4], [3, 5, 6])]
    assert shared(rows) == Passed(tokens=6, seen=19, heads=5, spared=1, unseen=1)


def test_pairs_of_one_prompt_share_it_within_a_step_and_no_other_prompt():
    """Two pairs of prompt 7 8 and one-token answers: 2 + 4 tokens together, 3 + 4 · 3
    seen. Apart, or with prompts that differ: twice 2 + 2 tokens, twice 3 + 2 · 3."""
    rows = [pair([7, 8], [1], [2]), pair([7, 8], [3], [4])]
    assert shared(rows) == Passed(6, 15, 4, spared=1, unseen=1)
    assert shared(rows, 1) == Passed(8, 18, 4, spared=2, unseen=2)
    others = [rows[0], pair([7, 9], [3], [4])]
    assert shared(others) == Passed(8, 18, 4, spared=2, unseen=2)


def test_operations_of_a_pass_are_twice_the_weights_that_its_tokens_meet():
    """10 tokens, 3 of them spared the 34 − 8 weights behind keys and values: 340 − 78 = 262
    weights met, twice each. Adapter of rank 1: 310 − 3 · (31 − 8) = 241. Attention:
    4 · 2 operations for each of 20 − 4 couples. Head: 2 · 2 · 5 for each of 6."""
    passed = Passed(tokens=10, seen=20, heads=6, spared=3, unseen=4)
    counted = operations.operations(ONE, passed, body=1, adapter=1, attention=1, head=1)
    assert (counted.body, counted.adapter) == (524, 482)
    assert (counted.attention, counted.head) == (128, 120)
    assert counted.total == 1254
    twice = operations.operations(ONE, passed, body=2, adapter=3, attention=3, head=2)
    assert twice.total == 2 * 524 + 3 * 482 + 3 * 128 + 2 * 120


def test_an_epoch_is_the_reference_pass_the_forward_and_the_backward_pass():
    """Prompt of 1 token, answers of 1: TRL has 2 rows of 2 tokens, 2 · 3 couples, 2 head
    positions. Body 4 · 68 = 272, adapter 4 · 62 = 248, attention 6 · 8 = 48, head
    2 · 20 = 40. Tuned: reference 272 + 48 + 40, policy 2 · 272 + 3 · (248 + 48 + 40), less
    the products for the gradient of the first q's, k's and v's inputs, 4 tokens by 24,
    and by 2 · 2 for each in the adapter: 144. As it comes these are there, and one more
    body, adapter and attention. Ours: 3 tokens, 1 + 2 + 2 couples, 2 answers: body 204,
    adapter 186, attention 40, head 40, less 3 · 36 = 108."""
    rows = [pair([1], [2], [3])]
    tuned = 272 + 48 + 40 + 2 * 272 + 3 * (248 + 48 + 40) - 144
    assert operations.tuned(ONE, rows, 1, True).total == tuned
    assert operations.default(ONE, rows, 1, True).total == tuned + 144 + 272 + 248 + 48
    ours = 204 + 40 + 40 + 2 * 204 + 3 * (186 + 40) + 2 * 40 - 108
    assert operations.ours(ONE, rows, 4).total == ours


def test_long_prompts_and_one_layer_come_to_the_gains_that_the_cost_model_names():
    """With a prompt much longer than its answers and a body that dwarfs head, adapter
    and attention, sharing halves the tokens. In 100 layers the last one's
    savings are 1 % of the prompt's."""
    model = ModelShape(100, 64, 20_000, 1, 1, 2, rank=1)
    rows = [pair(list(range(3, 1003)), [1], [2])]
    gain = operations.tuned(model, rows, 1, True).total
    gain /= operations.ours(model, rows, 4).total
    assert gain == pytest.approx(2.0, rel=0.02)


def test_products_of_the_model_come_in_their_shares_and_sum_to_one():
    """One pair, prompt 1, answers 1: 3 tokens through 34 weights three times (forward
    twice, backward once), the head's 10 weights three times for 2 answers: 306 and 60
    of 366. Four square products forward and backward: 3 · 3 · 16 = 144 of them."""
    found = operations.products(ONE, [pair([1], [2], [3])], batch=4)
    assert sum(found.values()) == pytest.approx(1)
    assert found[3, 2, 2] == pytest.approx(144 / 366)
    # Forward twice over gate and up, backward once over down: 3 tokens · 30 weights.
    assert found[3, 2, 3] == pytest.approx(90 / 366)
    assert found[2, 2, 5] == pytest.approx(40 / 366)
    assert found[2, 5, 2] == pytest.approx(20 / 366)


@pytest.mark.parametrize("shape", SHAPES)
def test_pairs_have_the_lengths_of_their_shape_and_are_the_same_again(shape):
    rows = pairs_of(shape, 40)
    lengths = SHAPES[shape]
    prompts = [len(row["prompt_ids"]) for row in rows]
    answers = [
        len(row[f"{side}_ids"]) for row in rows for side in ("chosen", "rejected")
    ]
    for found, (least, most) in ((prompts, lengths.prompt), (answers, lengths.answer)):
        assert least <= min(found) <= (least + most) / 2 <= max(found) <= most
    different = {tuple(row["prompt_ids"]) for row in rows}
    assert len(different) == 40 / lengths.pairs_a_prompt
    assert rows == pairs_of(shape, 40)


def test_every_default_shape_fits_the_model_and_fills_whole_steps(tmp_path):
    cells = cells_of(parse([*("trainer", "--device", "cpu")], ["trainer"], tmp_path))
    assert len(cells) == 2 * len(SHAPES)
    assert all(len(cell.rows) % cell.batch == 0 for cell in cells)
    assert cells[0].micro_batches == [1, 2, 4]
    assert cells[0].name == "trainer/fp32/short"
    assert max(len(ids) for c in cells for ids in operations.sequences(c.longest[-1]))
    assert MODELS["small"].vocabulary == 32_000


def test_a_gpu_gets_bfloat16_larger_models_and_larger_steps(tmp_path):
    words = ["trainer", "--device", "cuda", "--shapes", "chat"]
    cells = cells_of(parse(words, ["trainer"], tmp_path))
    assert [c.name for c in cells] == ["trainer/0.5b/bf16/chat", "trainer/7b/bf16/chat"]
    assert cells[0].micro_batches == [1, 2, 4, 8]
    assert not cells[0].head_everywhere
    assert len(cells[0].rows) % 16 == 0


def steps(*losses):
    return [{"loss": loss, "logps/chosen": -100.0} for loss in losses]


def figures(mine, theirs, memory=(), shape="chat", frugal=None):
    return list(
        cell_figures(
            "trainer/fp32/chat",
            shape=shape,
            model="small",
            device="cpu",
            exact=True,
            mine=mine,
            theirs=theirs,
            tried=Turn("TRL, micro-batch 1", 4, 10.0, 9.0),
            default=Turn("TRL, as it comes", 4, 25.0, 20.0),
            frugal=frugal,
            memory=dict(memory),
            ceiling=5.0,
            operations=1.2e12,
            rates=Rates([0.5, 0.5], {"linear": [1e12, 1e11], "onednn": [5e11, 5e11]}),
            note="",
        )
    )


def test_the_quicker_turns_are_compared_and_held_against_every_budget():
    """Ours 8 pairs in 2 s, TRL's in 10 s: 5 times, of a ceiling of 5. As it comes TRL took
    25 s where tuned it took 10: 0.8 · 10 / 25 = 0.32 pairs/s. Rates: halves at 1e12
    and 5e11 take 0.5e-12 + 1e-12 s an operation: 6.67e11 a second, of which
    1.2e12 / 2 s are 0.9."""
    mine = [Turn("ours", 8, s, 6.0, steps=steps(0.7, 0.6)) for s in (3.0, 2.0)]
    theirs = [Turn("TRL", 8, s, 16.0, steps=steps(0.7, 0.59999)) for s in (10.0, 12.0)]
    found = {
        figure.name.removeprefix("trainer/fp32/chat/"): figure
        for figure in figures(mine, theirs)
    }
    assert list(found) == [
        *("speed", "speed/default", "processor", "ceiling", "matmul", "same-work")
    ]
    speed = found["speed"]
    assert (speed.value, speed.rival_value, speed.ratio) == (4.0, 0.8, 5.0)
    assert speed.budget == Budget("ratio", "≥", 4.0) and speed.met
    assert found["speed/default"].rival_value == pytest.approx(0.32)
    assert (found["processor"].value, found["processor"].ratio) == (0.75, 0.375)
    assert found["processor"].note == "cores busy: ours 3.00, TRL 1.60"
    assert (found["ceiling"].value, found["ceiling"].unit) == (1.0, "of 5.00")
    assert found["matmul"].value == pytest.approx(0.9)
    assert "linear 182, onednn 500, quickest 667" in found["matmul"].note
    assert found["same-work"].value == pytest.approx(1e-5)
    assert found["same-work"].met


def test_uniform_lengths_must_never_be_slower():
    mine = [Turn("ours", 8, 2.0, 1.0, steps=steps(0.7))]
    theirs = [Turn("TRL", 8, 1.9, 1.0, steps=steps(0.7))]
    speed = figures(mine, theirs, shape="uniform-4")[0]
    assert (speed.budget, speed.met) == (Budget("ratio", "≥", 1.0), False)


def test_memory_is_held_against_trl_at_its_most_frugal_and_with_four_at_once():
    """300 MiB against 800 and 3,000."""
    turn = Turn("x", 8, 1.0, 1.0, steps=steps(0.7))
    sizes = {"ours": 300, "frugal": 800, "four": 3000}
    memory = {k: Turn(k, 4, 1.0, 1.0, size * 2**20) for k, size in sizes.items()}
    frugal, four = figures([turn], [turn], memory.items())[-2:]
    assert (frugal.rival, frugal.ratio, frugal.met) == ("frugal", 0.375, True)
    assert (four.rival, four.ratio, four.met) == ("four", 0.1, True)


def test_the_frugal_setting_has_to_be_quick_and_thrifty_at_once():
    """Ours 8 pairs in 2 s where TRL's take 10: 5 times; 200 MiB against 800 and 3,000."""
    turn = Turn("x", 8, 10.0, 1.0, steps=steps(0.7))
    sizes = {"ours": 700, "ours frugal": 200, "frugal": 800, "four": 3000}
    memory = {k: Turn(k, 4, 1.0, 1.0, size * 2**20) for k, size in sizes.items()}
    frugal = Turn("ours", 8, 2.0, 1.0)
    found = figures([turn], [turn], memory.items(), frugal=frugal)[-3:]
    assert [(figure.name.split("/chat/")[1], figure.ratio) for figure in found] == [
        ("frugal/speed", 5.0),
        ("frugal/memory", 0.25),
        ("frugal/memory/4", pytest.approx(200 / 3000)),
    ]
    assert [figure.met for figure in found] == [True, True, True]
    assert found[0].budget == Budget("ratio", "≥", 4.0)


def test_other_work_is_found_out():
    left = Turn("a", 4, 1.0, 1.0, steps=steps(0.7, 0.5))
    assert largest_difference(left, left, "loss") == 0
    assert largest_difference(
        left, Turn("b", 4, 1.0, 1.0, steps=steps(0.7)), "loss"
    ) == float("inf")
    other = Turn("b", 4, 1.0, 1.0, steps=steps(0.7, 0.4))
    assert largest_difference(left, other, "loss") == pytest.approx(0.1)
    assert largest_difference(left, other, "loss", relative=True) == pytest.approx(0.25)


def test_each_saving_is_shown_alone_and_left_out():
    """None of them 1 pair/s, all of them 4, one alone 2, all but that one 2.5."""
    seconds = {"none": 4.0, "all": 1.0, "only x": 2.0, "all but x": 1.6}
    turns = {
        told: [Turn("ours", 4, s, s, steps=steps(0.7)), Turn("ours", 4, 9.0, 9.0)]
        for told, s in seconds.items()
    }
    found = {figure.name: figure for figure in saving_figures("t/savings", turns)}
    assert found["t/savings/all"].ratio == 4.0
    assert found["t/savings/only-x"].ratio == 2.0
    assert found["t/savings/all-but-x"].ratio == 0.625
    assert found["t/savings/all-but-x"].rival == "ours, all"


def test_savings_are_tried_alone_with_what_they_need_and_left_out():
    """checkpointing saves memory at the cost of time: off, and shown apart."""
    defaults = {"pack": True, "share_prefixes": True, "checkpointing": "auto"}
    off = {"pack": False, "share_prefixes": False, "checkpointing": False}
    on = off | {"pack": True, "share_prefixes": True}
    assert saving_settings(defaults) == {
        "none": off,
        "only pack": off | {"pack": True},
        "only share_prefixes": on,
        "all but pack": on | {"pack": False},
        "all but share_prefixes": on | {"share_prefixes": False},
        "all": on,
        "all with checkpointing": on | {"checkpointing": True},
    }
    assert saving_settings({}) == {}


def test_a_way_that_the_machine_lacks_is_left_out_of_the_best_rate():
    rates = Rates([1.0], {"linear": [2e9], "onednn": [None]})
    assert rates.best == pytest.approx(2e9) and rates.of("onednn") is None
    assert str(rates) == "linear 2, onednn -, quickest 2 GFLOP/s"


def test_time_left_is_told_from_the_speed_of_each_kind_of_work():
    """10 of 30 done in 5 s: 10 s left; the other kind, not begun, goes at the same."""
    pace = Pace(lambda line: None)
    assert pace.left is None
    pace.plan("a", 30)
    pace.plan("b", 4)
    pace.did("a", 10, 5.0)
    assert pace.left == 12.0
    pace.did("b", 2, 10.0)
    assert pace.left == 20.0


def test_a_rival_that_does_not_fit_the_machine_is_told_and_the_rest_measured(
    tmp_path, capsys
):
    """TRL runs out of memory with 2 and 4 pairs at once and as it comes: 1 is its best."""

    class Sides:
        def trl(self, rows, size, **how):
            if size > 1:
                raise BenchError("out of memory")
            return Turn("TRL, micro-batch 1", len(rows), 2.0, 2.0, 2**20)

        def ours(self, rows, **how):
            return Turn("ours", len(rows), 1.0, 1.0, 2**20)

    options = parse([*("trainer", "--device", "cpu")], ["trainer"], tmp_path)
    cell = cells_of(options)[0]
    timed = trainer.Timed(options, cell, Sides(), Pace(options.say))
    tried, how = trainer.tuned(options, cell, timed)
    assert (tried.name, how) == ("TRL, micro-batch 1", {"size": 1})
    found = trainer.memory_of(cell, timed)
    assert set(found) == {"ours", "ours frugal", "frugal"}
    assert timed.trl_or_none(cell.rows, 4, "as it comes", default=True) is None
    said = capsys.readouterr().err
    assert said.count("TRL cannot do micro-batch") == said.count("out of memory") == 4


SERVED = """
from tests.bench.jobs import serve

def do(job):
    print("for the log")
    if job["n"] == 3:
        raise ValueError("three is too many")
    return {"twice": 2 * job["n"]}

serve(do)
"""


def test_a_program_does_job_after_job_and_is_started_again_after_it_broke(tmp_path):
    (tmp_path / "doubling.py").write_text(SERVED, encoding="utf-8")
    log = tmp_path / "log"
    path = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with Worker("doubling", log, path) as worker:
        assert worker.ask({"n": 1})["twice"] == 2
        first = worker.process
        assert worker.ask({"n": 2})["process_bytes"] > 2**20
        assert worker.process is first
        with pytest.raises(BenchError, match="three is too many"):
            worker.ask({"n": 3})
        assert worker.ask({"n": 4})["twice"] == 8
        second = worker.process
    assert second.returncode is not None
    assert "for the log" in log.read_text("utf-8")


LINE = {
    "name": "trainer/fp32/chat/speed",
    "value": 4.0,
    "unit": "pairs/s",
    "rival": "TRL",
    "rival_value": 2.0,
    "ratio": 2.0,
    "budget": "ratio ≥ 4",
    "met": False,
    "note": "12 pairs",
    "machine": "m",
    "commit": "c",
    "date": "d",
}


def test_kept_figures_are_taken_up_if_commit_and_machine_are_the_same(tmp_path):
    kept = tmp_path / "kept.jsonl"
    assert kept_figures(kept, "m", "c") == []
    lines = [json.dumps(LINE), json.dumps(LINE | {"commit": "d"}), '{"name": "to']
    kept.write_text("\n".join(lines), encoding="utf-8")
    (figure,) = kept_figures(kept, "m", "c")
    budget = Budget("ratio", "≥", 4.0)
    assert figure == Figure(
        "trainer/fp32/chat/speed", 4.0, "pairs/s", "TRL", 2.0, budget, "12 pairs"
    )
    options = parse(["trainer"], ["trainer"], tmp_path)
    assert not options.has("trainer/fp32/chat")
    options.kept.append(figure)
    assert options.has("trainer/fp32/chat") and not options.has("trainer/fp32/c")


def test_the_markdown_table_can_be_pasted_and_shouts_too():
    rows = markdown([from_object(LINE)]).splitlines()
    assert rows[0] == "| figure | value | unit | rival | ratio | budget | met | note |"
    assert rows[2] == (
        "| trainer/fp32/chat/speed | 4 | pairs/s | 2 TRL | 2.00 | ratio ≥ 4 | **NO** |"
        " 12 pairs |"
    )


def test_savings_are_measured_on_chat_unless_others_or_none_are_named(tmp_path):
    def savings(*words):
        return parse(["trainer", *words], ["trainer"], tmp_path).savings

    assert savings() == ["chat"]
    assert savings("--quick") == savings("--savings", "none") == []
    assert savings("--savings", "short", "long") == ["short", "long"]
    assert savings("--shapes", "short") == []
