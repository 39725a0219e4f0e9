"""Remarks on curves, and the curves as the page gets them."""

import pytest

from training.dpo.guardrails import SENTENCES
from training.queries import Curves, thinned
from training.reading import (
    SAID_OF_CURVES,
    Remark,
    read_curves,
    read_supervised,
    trainer_remarks,
    warned_of,
)
from training.templatetags.round_words import TRAINER_WARNINGS


def curves(steps, **names):
    """Rows whose values go linearly from the first to the second of each pair."""
    rows = []
    for step in range(1, steps + 1):
        share = (step - 1) / (steps - 1)
        rows.append(
            (step, {n: a + share * (b - a) for n, (a, b) in names.items()}),
        )
    return rows


def of(rows):
    """As curves_of reads fewer than 300 steps."""
    size = max(2, len(rows) // 10)
    evaluated = [
        row for row in rows if any(name.startswith("eval_") for name in row[1])
    ]
    return Curves(rows, evaluated, rows[:size], rows[-size:])


def words(rows, **more):
    options = {"n_pairs": 40, "is_finished": True} | more
    return [(remark.tone, remark.text) for remark in read_curves(of(rows), **options)]


REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins")


def with_rewards(chosen, rejected, **more):
    """Rewards falling or rising from 0 to the given ends; the margin follows."""
    ends = (chosen, rejected, chosen - rejected)
    named = {name: (0.0, end) for name, end in zip(REWARDS, ends, strict=True)}
    return curves(20, loss=(0.69, 0.4), **named, **more)


def test_a_fresh_adapter_is_not_held_against_people_yet():
    """Before its first update all held-out pairs are ties: it "could be 50 to 50 %"."""
    rows = with_rewards(0.8, -1.0)
    name = "eval_rewards/accuracies"
    ties = {f"{name}_ties_half{end}": 0.5 for end in ("", "/low", "/high")}
    rows[0][1].update({name: 0.0, **ties, "eval_rewards/margins": 0.0})
    so_far = words(rows, is_finished=False)
    assert so_far and not any("never trains on" in text for _tone, text in so_far)
    rows[9][1].update({name: 0.7, "eval_rewards/margins": 0.2})
    assert has(words(rows, is_finished=False), "good", "ranks 70 %")


def test_held_out_accuracy_counts_ties_half_and_tells_its_reach():
    rows = with_rewards(0.8, -1.0)
    name = "eval_rewards/accuracies"
    rows[0][1].update({name: 0.0, f"{name}_ties_half": 0.5, "eval_rewards/margins": 0})
    ends = {f"{name}_ties_half/low": 0.62, f"{name}_ties_half/high": 0.9}
    rows[-1][1].update({name: 0.7, f"{name}_ties_half": 0.75, **ends})
    remarks = words(rows, n_held_out=40)
    assert has(
        remarks, "good", "ranks 75 % as people did. With other prompts like these"
    )
    assert has(remarks, "good", "it could be 62 to 90 %.")


def test_what_the_trainer_warned_of_is_told_unless_the_curves_say_it():
    warnings = [
        {"code": "no_held_out", "text": "A."},
        {"code": "held_out_leak", "text": "B."},
    ]
    assert trainer_remarks({"warnings": warnings}) == [Remark("warn", "B.")]
    assert trainer_remarks({}) == []


def test_the_trainers_sentences_are_those_the_catalog_knows():
    shown = [text for code, text in SENTENCES.items() if code not in SAID_OF_CURVES]
    assert list(TRAINER_WARNINGS) == list(dict.fromkeys(shown))


def has(remarks, tone, part):
    return any(t == tone and part in text for t, text in remarks)


def test_a_few_steps_say_nothing():
    assert words(curves(4, loss=(0.69, 0.1))) == []


def test_a_loss_that_stays_at_ln_2_is_said_to_have_learned_nothing():
    remarks = words(curves(20, loss=(0.6931, 0.6925)))
    assert has(remarks, "warn", "stays near 0.693")


def test_of_a_loss_that_starts_elsewhere_the_margin_tells_whether_it_learned():
    """The demo's: -log σ(0) + cross-entropy, here ln 2 + 1.2."""
    margin = {"rewards/margins": (0.0, 0.01)}
    stuck = words(curves(20, loss=(1.893, 1.893), **margin))
    assert has(stuck, "", "from 1.893 to 1.893.") and has(stuck, "warn", "stays near 0")
    assert not any("0.693" in text for _tone, text in stuck)
    moved = words(curves(20, loss=(1.893, 1.6), **{"rewards/margins": (0.0, 0.5)}))
    assert not has(moved, "warn", "margin")


@pytest.mark.parametrize("loss", [0.693, 1.893])
def test_what_the_trainer_says_of_a_stuck_policy_is_not_said_twice(loss):
    rows = curves(20, loss=(loss, loss), **{"rewards/margins": (0.0, 0.0)})
    assert has(words(rows), "warn", "stays near")
    assert not has(words(rows, warned={"stuck"}), "warn", "")
    summary = {"warnings": [{"code": "stuck", "text": "At step 20 of 20 …"}]}
    assert warned_of(summary) == {"stuck"} and warned_of({}) == set()
    assert trainer_remarks(summary) == [Remark("warn", "At step 20 of 20 …")]


def test_a_rising_loss_points_at_the_learning_rate():
    assert has(words(curves(20, loss=(0.69, 1.2))), "warn", "learning rate")


def test_both_rewards_falling_under_a_rising_margin_is_expected():
    remarks = words(with_rewards(-0.4, -2.0))
    assert has(remarks, "good", "That is expected")


def test_both_falling_alike_and_far_is_a_warning():
    """Chosen −2.9, rejected −3: the ends are means of the last two of 20 steps."""
    remarks = words(with_rewards(-2.9, -3.0))
    assert has(remarks, "warn", "moves away from both")


@pytest.mark.parametrize(("chosen", "rejected"), [(-2.9, -3.0), (-2.0, -5.0)])
def test_what_the_trainer_says_of_both_falling_is_neither_said_twice_nor_called_good(
    chosen, rejected
):
    rows = with_rewards(chosen, rejected)
    said = words(rows)
    assert has(said, "warn", "moves away from both") or has(said, "good", "expected")
    told = words(rows, warned={"displacement"})
    assert not has(told, "warn", "from both") and not has(told, "good", "expected")


def test_a_margin_that_rises_with_the_chosen_is_simply_good():
    remarks = words(with_rewards(0.8, -1.0))
    assert has(remarks, "good", "The margin rose")
    assert not has(remarks, "good", "expected")


def test_held_out_pairs_are_read_against_the_start():
    def rows(first, last, margin=0.2):
        found = with_rewards(0.8, -1.0)
        found[0][1]["eval_rewards/accuracies"] = first
        found[0][1]["eval_rewards/margins"] = margin
        found[-1][1]["eval_rewards/accuracies"] = last
        return found

    better = words(rows(0.5, 0.8), n_held_out=40)
    assert has(better, "good", "80 % as people did; 50 % at the start")
    assert has(words(rows(0.8, 0.6), n_held_out=40), "warn", "by heart")
    # A fresh adapter ties everywhere; TRL's accuracy of 0 there is no "0 % right".
    fresh = words(rows(0.0, 0.8, margin=0.0), n_held_out=40)
    assert has(fresh, "good", "80 %") and not has(fresh, "good", "start")
    assert has(words(rows(0.5, 0.8), n_held_out=4), "", "4 such pairs")
    assert has(words(rows(0.5, 0.8), n_held_out=1), "", "1 such pair that")
    assert has(words(with_rewards(0.8, -1.0)), "", "No pairs are held out")


def test_knowing_every_pair_by_heart_is_said_at_the_end():
    rows = curves(20, loss=(0.69, 0.0), **{"rewards/accuracies": (1.0, 1.0)})
    rows[-2][1]["loss"] = 0.001
    assert has(words(rows), "warn", "by heart")
    assert not has(words(rows, is_finished=False), "warn", "by heart")


@pytest.mark.parametrize("count", [1, 2, 299, 300, 301, 5000])
def test_long_runs_are_thinned_to_a_screens_width_with_both_ends(count):
    rows = list(range(count))
    kept = thinned(rows, 300)
    assert len(kept) == min(count, 300)
    assert kept[0] == 0 and kept[-1] == count - 1 and kept == sorted(set(kept))


def test_supervised_steps_are_told_by_their_loss_and_the_tokens_they_get_right():
    """The ends are means of two of 20 steps, the second 1/19 of the way: the loss falls
    by 2, so 3 − 1/19 = 2.947 and 1 + 1/19 = 1.053; the share of hits rises by 0.52, so
    0.2 + 0.26/19 = 21.4 % and 0.72 − 0.26/19 = 70.6 %.
    """
    rows = curves(20, loss=(3.0, 1.0), mean_token_accuracy=(0.2, 0.72))
    (remark,) = read_supervised(of(rows))
    assert "from 2.947 to 1.053" in remark.text and not remark.tone
    assert "right for 71 % of them, before 21 %" in remark.text
    rising = curves(20, loss=(1.0, 3.0), mean_token_accuracy=(0.2, 0.1))
    assert has(
        [(r.tone, r.text) for r in read_supervised(of(rising))], "warn", "too high"
    )
    assert read_supervised(of([])) == []
