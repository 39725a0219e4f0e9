"""Verdicts and states as stored, freezing, and what the funnel and exports make of it."""

import json

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from annotation import checking, tasks, validation
from annotation.checking import check_again, check_pair, check_waiting
from annotation.ending import skip
from annotation.errors import PairsChanged
from annotation.exporting import FORMATS, jsonl, rows
from annotation.judging import submit_judgment
from annotation.leasing import take_lease
from annotation.models import Completion, Decision, PreferencePair, RuleVerdict
from annotation.queries import (
    WAITS_FOR_CHECK,
    annotator_counts,
    funnel,
    held_out_pairs,
    my_history,
    sound_pairs,
)
from annotation.validation import CODE_VERSION, DEFAULTS
from inference.errors import InferenceError
from tests.acts import freeze
from tests.annotation.exported import export
from tests.factories import (
    make_comparison,
    make_completion,
    make_imported,
    make_judgment,
    make_lease,
    make_pair,
    make_project,
    make_prompt,
    make_unchecked,
    make_user,
)
from tests.training.dpo.families import chatml_tokenizer
from training.dpo.data import read_pairs

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]

GOOD = "Water boils at a hundred degrees at sea level, lower on a mountain."
OTHER = "It depends: pressure falls with height and the boiling point with it."


def unchecked(project, chosen=GOOD, rejected=OTHER, held_out=False, **chosen_fields):
    prompt = make_prompt(project=project, is_held_out=held_out)
    return make_unchecked(prompt, chosen, rejected, **chosen_fields)


def test_a_sound_pair_is_accepted_with_every_verdict_stored(project):
    pair = unchecked(project)
    assert check_pair(pair) == "accepted"
    verdicts = {v.rule: (v.result, v.params) for v in pair.verdicts.all()}
    asked = {name for name, params in DEFAULTS.items() if params["on"]}
    assert set(verdicts) == asked and len(asked) == 11
    assert {result for result, _params in verdicts.values()} == {"pass"}
    assert verdicts["chosen_width"][1] == {"min_columns": 50}


def test_a_rejected_pair_keeps_the_reason(project):
    pair = unchecked(project, chosen="Too short.")
    tasks.check_pairs()
    pair.refresh_from_db()
    assert pair.state == "rejected"
    verdict = pair.verdicts.get(result="reject")
    assert verdict.rule == "chosen_width"
    assert "10 columns" in verdict.reason


def test_after_an_upgrade_of_the_rules_the_pairs_are_checked_again(
    project, monkeypatch
):
    pair, frozen = unchecked(project), unchecked(project)
    tasks.check_pairs()
    freeze(project, frozen)
    later = CODE_VERSION + 1
    monkeypatch.setattr(validation, "CODE_VERSION", later)
    verdict = validation.RuleResult("reject", "found by the new code")
    monkeypatch.setitem(validation.RULES, "identity", lambda facts, params: verdict)
    tasks.check_pairs()
    for row in (pair, frozen, project):
        row.refresh_from_db()
    assert (pair.state, pair.is_due, frozen.state) == ("rejected", False, "accepted")
    assert project.rules_code == later

    checked_at = pair.verdicts.first().checked_at
    tasks.check_pairs()
    monkeypatch.setattr(validation, "CODE_VERSION", CODE_VERSION)
    tasks.check_pairs()
    assert pair.verdicts.first().checked_at == checked_at, "once an upgrade"


def test_a_projects_own_rules_are_used(project):
    project.settings = {
        "rules": {
            "chosen_width": {"min_columns": 5},
            "rejected_width": {"min_columns": 5},
        }
    }
    project.save()
    assert check_pair(unchecked(project, "Because.", "Who knows?")) == "accepted"


def test_an_edited_answer_is_counted_by_the_model_and_marked_if_it_cannot_be(
    project, annotator, monkeypatch
):
    make_comparison(project=project)
    lease = take_lease(project, annotator)
    submit_judgment(lease, verdict="first", edited=GOOD)
    pair = PreferencePair.objects.get(kind="edited")
    asked = []

    def count(messages):
        asked.append(messages)
        return 33  # the whole chat; the prompt of 3 is known from sampling

    monkeypatch.setattr("inference.services.count_tokens", count)
    monkeypatch.setitem(
        checking.validation.RULES,
        "max_length",
        lambda facts, params: checking.validation.RuleResult(
            "reject", f"{facts.prompt_tokens}+{facts.chosen_tokens}"
        ),
    )
    check_pair(pair)
    assert pair.verdicts.get(rule="max_length").reason == "3+30"
    assert asked == [
        [*pair.prompt.messages, {"role": "assistant", "content": GOOD}],
    ]
    monkeypatch.undo()

    def down(messages):
        raise InferenceError("No vLLM server is ready.")

    monkeypatch.setattr("inference.services.count_tokens", down)
    assert check_pair(pair) == "accepted"
    assert pair.verdicts.get(rule="max_length").result == "could_not_check"
    project.settings = {"accept_unchecked": False}
    project.save()
    assert check_pair(PreferencePair.objects.get(pk=pair.pk)) == "rejected"


def test_checking_again_replaces_verdicts_but_never_of_a_frozen_pair(project):
    free, frozen = unchecked(project), unchecked(project)
    check_waiting()
    freeze(project, frozen)
    project.settings = {"rules": {"chosen_width": {"min_columns": 500}}}
    project.save()

    check_again(project)
    assert PreferencePair.objects.filter(is_due=True).count() == 1
    assert check_waiting() == 1
    frozen = PreferencePair.objects.get(pk=frozen.pk)
    assert check_pair(frozen) == "accepted"
    free.refresh_from_db()
    assert (free.state, frozen.state) == ("rejected", "accepted")
    assert RuleVerdict.objects.filter(pair=free).count() == 11


def test_checking_many_pairs_costs_no_query_for_what_is_shared(
    project, django_assert_max_num_queries
):
    for _ in range(10):
        unchecked(project)
    # Once for all: stale ones reopened (a transaction, and on PostgreSQL two locks).
    with django_assert_max_num_queries(8 + 10 * 15):
        assert check_waiting() == 10


def test_an_idle_look_reads_indexes_of_what_waits(project):
    """SQLite went through all pairs there are, every ten seconds."""
    with CaptureQueriesContext(connection) as asked:
        assert check_waiting() == 0
    assert len(asked) == 2
    if connection.vendor == "sqlite":
        for query, index in zip(asked, ("pairs_due", "unchecked_pairs"), strict=True):
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN QUERY PLAN {query['sql']}")
                plan = "\n".join(row[-1] for row in cursor.fetchall())
            assert f"INDEX {index}" in plan and "TEMP" not in plan, plan


def test_no_more_pairs_are_checked_than_asked_for(project):
    for is_due in (True, True, False, False):
        state = "accepted" if is_due else "unchecked"
        make_pair(project=project, is_due=is_due, state=state)
    assert check_waiting(most=3) == 3
    waits = PreferencePair.objects.filter(WAITS_FOR_CHECK)
    assert [pair.state for pair in waits] == ["unchecked"]


def test_who_cannot_be_checked_takes_nobody_elses_turn(project, monkeypatch):
    broken, sound = unchecked(project), unchecked(project)

    def check(pair, count):
        if pair == broken:
            raise ZeroDivisionError("so it goes")
        return check_pair(pair, count)

    monkeypatch.setattr(checking, "check_pair", check)
    assert check_waiting(most=1) == 1
    sound.refresh_from_db()
    assert sound.state == "accepted"


def test_freezing_is_all_or_nothing(project):
    sound = [make_pair(project=project) for _ in range(3)]
    freeze(project, *sound[:1])
    at = PreferencePair.objects.get(pk=sound[0].pk).frozen_at
    for bad in (
        make_pair(project=project, state="rejected"),
        make_pair(project=project, superseded_at=timezone.now()),
        make_pair(),  # of another project
    ):
        with pytest.raises(PairsChanged):
            freeze(project, *sound, bad)
        assert PreferencePair.objects.filter(frozen_at__isnull=False).count() == 1
    freeze(project, *sound)
    sound[0].refresh_from_db()
    assert sound[0].frozen_at == at
    assert PreferencePair.objects.filter(frozen_at__isnull=False).count() == 3


def test_only_accepted_standing_pairs_off_held_out_prompts_train(project):
    sound = make_pair(project=project)
    held = make_pair(
        comparison=make_comparison(
            prompt=make_prompt(project=project, is_held_out=True)
        )
    )
    make_pair(project=project, state="rejected")
    make_pair(project=project, state="unchecked")
    make_pair(project=project, superseded_at=timezone.now())
    make_pair()
    for purpose in ("gold", "repeat", "head_to_head"):
        make_pair(comparison=make_comparison(project=project, purpose=purpose))
    imported = make_imported(sound.prompt)

    assert set(sound_pairs(project)) == {sound, imported}
    assert set(held_out_pairs(project)) == {held}


def test_the_funnel_says_what_was_lost_where(project):
    """Four comparisons judged: a tie, a short answer, a cut-off and short one (lost to
    the cut-off, the earlier rule), and three that pass, one of them held out, one
    frozen; one waits for its second judgment, one pair for its check.
    """
    annotator = make_user(project=project)
    make_comparison(project=project)
    submit_judgment(take_lease(project, annotator), verdict="tie")
    unchecked(project, chosen="Too short.")
    unchecked(project, chosen="Short", finish_reason="length")
    frozen = unchecked(project)
    unchecked(project)
    unchecked(project, held_out=True)
    check_waiting()
    freeze(project, frozen)
    make_judgment(comparison=make_comparison(project=project, quota=2))
    unchecked(project)

    steps = {step["step"]: step for step in funnel(project)}
    assert {name: step["count"] for name, step in steps.items()} == {
        "judgments": 8,
        "decided": 7,
        "pairs": 6,
        "checked": 5,
        "identical": 5,
        "empty": 5,
        "cut_off": 4,
        "chosen_width": 3,
        "rejected_width": 3,
        "similarity": 3,
        "max_length": 3,
        **dict.fromkeys(["identity", "repetition", "personal_data", "language"], 3),
        **dict.fromkeys(["refusal", "contradiction", "near_duplicate"], 3),
        "accepted": 3,
        "sound": 2,
    }
    assert {n: s["lost"] for n, s in steps.items() if s["lost"]} == {
        "decided": {"undecided": 1},
        "pairs": {"tie": 1},
        "checked": {"unchecked": 1},
        "cut_off": {"cut_off": 1},
        "chosen_width": {"chosen_width": 1},
        "sound": {"held_out": 1},
    }
    assert all(step["label"] for step in steps.values())
    json.dumps(list(steps.values()))


def test_the_funnel_and_counts_cost_the_same_however_much_there_is(
    project, django_assert_num_queries
):
    for _ in range(2):
        with django_assert_num_queries(5):
            funnel(project)
        with django_assert_num_queries(2):
            annotator_counts(project)
        for _ in range(5):
            unchecked(project, chosen="Too short.")
        check_waiting()


def test_who_judged_and_skipped_how_much(project, annotator, other_annotator):
    for _ in range(3):
        make_comparison(project=project)
    submit_judgment(take_lease(project, annotator), verdict="tie")
    skip(take_lease(project, annotator))
    skip(take_lease(project, other_annotator))

    alice, bob = annotator_counts(project)
    assert (alice["username"], alice["judgments"], alice["skips"]) == ("alice", 1, 1)
    assert alice["mean_seconds"] < 60
    assert (bob["username"], bob["judgments"], bob["skips"]) == ("bob", 0, 1)


def test_my_history_is_mine_newest_first_and_says_what_can_be_undone(
    project, annotator, other_annotator, django_assert_num_queries
):
    pairs = [
        make_pair(
            judgment=make_judgment(
                lease=make_lease(
                    comparison=make_comparison(project=project), annotator=who
                )
            )
        )
        for who in (annotator, annotator, other_annotator)
    ]
    freeze(project, *pairs[:1])
    with django_assert_num_queries(1):
        mine = [
            (j.comparison.prompt_id, j.can_undo, j.lease.first.text)
            for j in my_history(project, annotator)
        ]
    assert [one[:2] for one in mine] == [
        (pairs[1].prompt_id, True),
        (pairs[0].prompt_id, False),
    ]


def test_pairs_go_out_as_trl_and_openai(project):
    prompt = make_prompt("为什么?", project=project)
    a = make_completion(
        "好", prompt=prompt, sampling={"system_prompt": "Be kind.", "max_tokens": 9}
    )
    pair = make_pair(comparison=make_comparison(a=a), weight=0.5)
    asked = [{"role": "system", "content": "Be kind."}, *prompt.messages]

    def answer(completion):
        return [{"role": "assistant", "content": completion.text}]

    assert {"trl", "openai", "together", "llamafactory", "kto"} == FORMATS
    assert list(rows(sound_pairs(project), "trl")) == [
        {
            "id": str(pair.pk),
            "prompt": asked,
            "chosen": answer(a),
            "rejected": answer(pair.rejected),
            "weight": 0.5,
        }
    ]
    (line,) = jsonl([pair], "openai")
    assert "为什么" in line
    assert json.loads(line) == {
        "input": {"messages": asked},
        "preferred_output": answer(a),
        "non_preferred_output": answer(pair.rejected),
    }
    pair.weight = 1.0
    assert "weight" not in next(rows([pair]))


def test_as_labelled_answers_ties_and_both_bads_go_out_too(project, tmp_path):
    """A pair's answers, an edit without what it was made of, then both answers of what
    was judged alike; nothing held out, withdrawn, cut off or for measuring. The trainer
    reads the file."""
    pair = make_pair(project=project, weight=0.5)
    edited = make_completion(
        "Edited by hand.", prompt=pair.prompt, source="edited", edited_from=pair.chosen
    )
    make_pair(
        comparison=make_comparison(prompt=pair.prompt), kind="edited", chosen=edited
    )

    def alike(outcome, purpose="train", superseded_at=None, **prompt):
        prompt = make_prompt(project=project, **prompt)
        b = make_completion(prompt=prompt, finish_reason="length")
        comparison = make_comparison(prompt=prompt, b=b, purpose=purpose)
        Decision.objects.create(
            comparison=comparison, outcome=outcome, superseded_at=superseded_at
        )
        return comparison

    tie, bad = alike("tie"), alike("both_bad")
    Completion.objects.filter(pk=bad.b.pk).update(finish_reason="stop")
    alike("split"), alike("tie", is_held_out=True), alike("tie", purpose="repeat")
    alike("both_bad", superseded_at=timezone.now())
    text = "".join(export(project, "kto"))
    found = [json.loads(line) for line in text.splitlines()]
    assert [(r["completion"][0]["content"], r["label"]) for r in found] == [
        (pair.chosen.text, True),
        (pair.rejected.text, False),
        ("Edited by hand.", True),
        (tie.a.text, True),
        (bad.a.text, False),
        (bad.b.text, False),
    ]
    assert [row.get("weight") for row in found] == [0.5, 0.5] + 4 * [None]
    assert found[3]["prompt"] == tie.prompt.messages
    (tmp_path / "pairs.jsonl").write_text(text, encoding="utf-8")
    answers, _ = read_pairs(
        tmp_path / "pairs.jsonl", chatml_tokenizer(), 512, 320, unpaired=True
    )
    assert [answer.label for answer in answers] == [row["label"] for row in found]


def test_exporting_costs_the_same_queries_however_many_pairs(
    django_assert_num_queries,
):
    project = make_project()
    for _ in range(5):
        make_pair(project=project)
    # Pairs, prompts, and the answers of either side.
    with django_assert_num_queries(4):
        assert len(list(jsonl(sound_pairs(project)))) == 5
