"""start_round: what is frozen, which pairs a recipe takes, what is refused."""

import errno
import hashlib
import json
import os
import time
from itertools import pairwise

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from annotation.errors import SettingsError
from annotation.models import Completion, PreferencePair
from annotation.project_settings import checked
from inference import leftovers
from tests.factories import (
    make_comparison,
    make_completion,
    make_pair,
    make_policy,
    make_prompt,
)
from tests.plans import assert_sought_by_keys
from tests.threads import together
from tests.training.conftest import make_pairs
from training import recipes, runfolder
from training.errors import RoundRefused
from training.models import RoundPair, TrainingRound
from training.reconcile import reconcile
from training.rounds import cancel_round, start_round
from training.rows import pair_rows

pytestmark = pytest.mark.django_db


def rows_of(training_round):
    path = training_round.folder / "pairs.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def finished(training_round, policy):
    """As if the round had trained `policy`."""
    TrainingRound.objects.filter(pk=training_round.pk).update(
        state="succeeded", policy=policy
    )


def test_a_round_freezes_its_pairs_and_the_hash_of_its_file(project, manager):
    pairs = make_pairs(project, 3, held_out=2)
    training_round = start_round(project, manager)
    content = (training_round.folder / "pairs.jsonl").read_bytes()
    assert training_round.pairs_sha256 == hashlib.sha256(content).hexdigest()
    assert [row["id"] for row in rows_of(training_round)] == [
        str(pair.pk) for pair in pairs[:3]
    ]
    for pair in pairs:
        pair.refresh_from_db()
    assert [pair.frozen_at is not None for pair in pairs] == [True] * 3 + [False] * 2
    held_out = (training_round.folder / "held_out.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in held_out] == [
        str(pair.pk) for pair in pairs[3:]
    ]
    assert training_round.state == "queued"
    assert training_round.number == 1
    assert training_round.preset == "cumulative"


def test_a_row_is_trls_conversational_form_with_the_sampled_tokens(project, manager):
    prompt = make_prompt("为什么？", project=project)
    chosen = make_completion("因为。" * 9, prompt=prompt, token_ids=[7, 8, 2])
    rejected = make_completion("不知道", prompt=prompt, token_ids=[9, 2])
    make_pair(comparison=make_comparison(a=chosen, b=rejected), weight=2.0)
    make_pairs(project, 1)
    row = rows_of(start_round(project, manager))[0]
    assert row["prompt"] == [{"role": "user", "content": "为什么？"}]
    assert row["chosen"] == [{"role": "assistant", "content": "因为。" * 9}]
    assert row["rejected"] == [{"role": "assistant", "content": "不知道"}]
    assert row["weight"] == 2.0
    assert row["prompt_ids"] == [1, 2, 3]
    assert row["chosen_ids"] == [7, 8, 2]
    assert row["rejected_ids"] == [9, 2]


@pytest.mark.parametrize(
    "other",
    [
        {"source": "imported"},
        {"prompt_token_ids": [1, 2, 3, 4]},
        {"token_ids": None},
    ],
)
def test_token_ids_are_given_only_where_both_were_sampled_alike(
    project, manager, other
):
    prompt = make_prompt(project=project)
    a = make_completion(prompt=prompt)
    b = make_completion(prompt=prompt, **other)
    make_pair(comparison=make_comparison(a=a, b=b))
    make_pairs(project, 1)
    rows = rows_of(start_round(project, manager))
    assert "prompt_ids" not in rows[0] and "chosen_ids" not in rows[0]
    assert "prompt_ids" in rows[1]


def test_the_system_prompt_an_answer_was_sampled_with_is_trained_with(project, manager):
    """Else the policy would be trained on another question than it was asked."""
    project.settings = {"sampling": {"system_prompt": "Be brief today."}}
    project.save()
    prompt = make_prompt("Why?", project=project)
    sampling = {"temperature": 1.0, "system_prompt": "Be brief."}
    make_pair(
        comparison=make_comparison(
            a=make_completion(prompt=prompt, sampling=sampling),
            b=make_completion(prompt=prompt, sampling=sampling),
        )
    )
    imported = make_prompt("How?", project=project)
    make_pair(
        comparison=make_comparison(
            a=make_completion(prompt=imported, source="imported"),
            b=make_completion(prompt=imported, source="imported"),
            policy=None,
        )
    )
    rows = rows_of(start_round(project, manager))
    assert rows[0]["prompt"][0] == {"role": "system", "content": "Be brief."}
    assert rows[1]["prompt"][0] == {"role": "system", "content": "Be brief today."}


def test_too_few_pairs_are_refused_with_the_funnel(project, manager):
    make_pairs(project, 1, held_out=5)
    with pytest.raises(RoundRefused) as refusal:
        start_round(project, manager)
    assert refusal.value.status == 422
    assert "at least 2 sound pairs; there are 1." in refusal.value.message
    counts = {step["step"]: step["count"] for step in refusal.value.funnel}
    assert counts["accepted"] == 6 and counts["sound"] == 1
    assert not TrainingRound.objects.exists()


@pytest.mark.both_databases
def test_a_second_round_is_refused_while_one_runs(project, manager):
    make_pairs(project, 2)
    start_round(project, manager)
    with pytest.raises(RoundRefused) as refusal:
        start_round(project, manager)
    assert refusal.value.status == 409
    assert "Round 1" in refusal.value.message


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_of_many_starts_at_once_one_wins_and_the_others_are_told(project, manager):
    make_pairs(project, 4)
    outcomes = together(*[lambda: start_round(project, manager)] * 5)
    (started,) = [one for one in outcomes if isinstance(one, TrainingRound)]
    refused = [one.status for one in outcomes if isinstance(one, RoundRefused)]
    assert (started.state, refused) == ("queued", [409] * 4), outcomes
    assert TrainingRound.objects.count() == 1
    assert RoundPair.objects.count() == 4


def before_writing(monkeypatch, act):
    real = runfolder._write_lines

    def write(path, rows):
        act()
        return real(path, rows)

    monkeypatch.setattr(runfolder, "_write_lines", write)


def folders(settings):
    return sorted(path.name for path in settings.ROUNDS_DIR.iterdir())


@pytest.mark.django_db(transaction=True)
def test_the_files_are_written_before_the_transaction(
    project, manager, monkeypatch, settings
):
    """Reading and writing take longer the more pairs there are; SQLite has one writer."""
    make_pairs(project, 3, held_out=1)
    seen = []
    before_writing(monkeypatch, lambda: seen.append(connection.in_atomic_block))
    training_round = start_round(project, manager)
    assert seen == [False, False]
    assert folders(settings) == [str(training_round.pk)]


@pytest.mark.both_databases
def test_a_pair_that_changes_while_the_files_are_written_refuses_the_round(
    project, manager, monkeypatch, settings
):
    pair, *_others = make_pairs(project, 3)

    def undo():
        pair.superseded_at = pair.created_at
        pair.save()

    before_writing(monkeypatch, undo)
    with pytest.raises(RoundRefused, match="A pair was changed"):
        start_round(project, manager)
    assert not TrainingRound.objects.exists() and not RoundPair.objects.exists()
    assert folders(settings) == []


@pytest.mark.both_databases
def test_a_rounds_rows_are_read_by_keys_while_statistics_are_wrong(project):
    """On PostgreSQL a start took minutes, until the tables were analysed again."""
    ids = sorted(pair.pk for pair in make_pairs(project, 20))
    with CaptureQueriesContext(connection) as asked:
        rows = list(pair_rows(ids, make_policy(project=project), ""))
    assert [int(row["id"]) for row in rows] == ids
    reads = [q["sql"] for q in asked if q["sql"].startswith("SELECT")]
    assert_sought_by_keys(reads)


@pytest.mark.both_databases
def test_the_transaction_takes_as_many_statements_for_any_number_of_pairs(
    project, manager
):
    """SQLite's other writers wait for it."""

    def statements() -> int:
        with CaptureQueriesContext(connection) as captured:
            training_round = start_round(project, manager)
        cancel_round(training_round)
        asked = [query["sql"] for query in captured]
        (began,) = (
            place
            for place, sql in enumerate(asked)
            if 'INSERT INTO "training_traininground"' in sql
        )
        return len(asked) - began

    make_pairs(project, 2)
    few = statements()
    prompt = make_prompt(project=project)
    answers = Completion.objects.bulk_create(
        Completion(prompt=prompt, source="imported", text=str(n)) for n in range(1202)
    )
    PreferencePair.objects.bulk_create(
        PreferencePair(
            project=project,
            prompt=prompt,
            kind="imported",
            chosen=chosen,
            rejected=rejected,
            state="accepted",
        )
        for chosen, rejected in pairwise(answers)
    )
    assert statements() == few
    assert RoundPair.objects.count() == 2 + 2 + 1201
    assert PreferencePair.objects.filter(frozen_at=None).count() == 0


@pytest.mark.parametrize("function", ["_write_lines", "give_name"])
def test_a_full_disk_is_told_and_leaves_nothing(
    project, manager, monkeypatch, settings, function
):
    pairs = make_pairs(project, 3)

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runfolder, function, full)
    for _try in range(2):
        with pytest.raises(RoundRefused) as refusal:
            start_round(project, manager)
        assert "No space left on device" in refusal.value.message
        assert refusal.value.status == 409
    assert not TrainingRound.objects.exists()
    pairs[0].refresh_from_db()
    assert pairs[0].frozen_at is None
    assert folders(settings) == []


def test_what_a_crash_left_of_a_round_being_made_is_swept(
    project, manager, monkeypatch, settings
):
    make_pairs(project, 2)
    # As if kill -9 had come: nothing of ours cleans up.
    monkeypatch.setattr(runfolder, "give_name", lambda *_args: 1 / 0)
    with monkeypatch.context() as killed, pytest.raises(ZeroDivisionError):
        killed.setattr(runfolder, "discard", lambda _folder: None)
        start_round(project, manager)
    (left,) = settings.ROUNDS_DIR.iterdir()
    assert reconcile()["swept"] == 0  # its round may still be being made
    yesterday = time.time() - leftovers.LEFT_AFTER - 1
    os.utime(left, (yesterday, yesterday))
    assert reconcile()["swept"] == 1
    assert folders(settings) == []


@pytest.mark.django_db(transaction=True)
def test_a_gpu_worker_is_nudged_once_the_round_stands(project, manager, nudges):
    make_pairs(project, 2)
    training_round = start_round(project, manager)
    assert nudges == [training_round.pk]


def test_incremental_takes_new_pairs_and_a_quarter_seen_before(project, manager):
    """Ancestry: base → first (8 pairs). 6 new pairs, so 6·(1/4)/(3/4) = 2 replayed."""
    make_pairs(project, 8)
    first = start_round(project, manager)
    policy = make_policy(project=project)
    finished(first, policy)
    project.channel.serving = policy
    project.channel.save()
    new = make_pairs(project, 6)

    second = start_round(project, manager, preset="incremental")
    assert second.start == policy and second.reference == "start"
    assert second.preset == "incremental" and second.number == 2
    replayed = second.round_pairs.filter(is_replay=True)
    assert replayed.count() == 2
    assert {row.pair_id for row in second.round_pairs.filter(is_replay=False)} == {
        pair.pk for pair in new
    }
    # The choice is seeded: the same question has the same answer.
    chosen = sorted(second.round_pairs.values_list("pair_id", "is_replay"))
    second.delete()
    again = start_round(project, manager, preset="incremental")
    assert sorted(again.round_pairs.values_list("pair_id", "is_replay")) == chosen


def test_pairs_of_rolled_back_and_failed_rounds_count_as_new(project, manager):
    make_pairs(project, 3)
    first = start_round(project, manager)
    finished(first, make_policy(project=project))  # never served: base serves
    second = start_round(project, manager, start="serving", data="new")
    assert second.round_pairs.count() == 3
    TrainingRound.objects.filter(pk=second.pk).update(state="failed")
    assert start_round(project, manager, data="new").round_pairs.count() == 3


def test_only_new_is_refused_where_nothing_is_new(project, manager):
    make_pairs(project, 3)
    policy = make_policy(project=project)
    finished(start_round(project, manager), policy)
    with pytest.raises(RoundRefused) as refusal:
        start_round(project, manager, start=policy.name, data="new")
    assert "at least 2 new sound pairs; there are 0." in refusal.value.message


def test_an_override_is_no_longer_the_preset(project, manager):
    make_pairs(project, 2)
    training_round = start_round(project, manager, reference="start")
    assert training_round.preset == ""
    assert training_round.start == project.base
    assert (training_round.reference, training_round.data) == ("start", "all")


def test_project_settings_know_the_choices_of_a_round():
    known = {"preset": recipes.PRESETS}
    known |= {"reference": recipes.Reference.values, "data": recipes.Data.values}
    for name, names in known.items():
        for one in ("", *names):
            assert checked({"round": {name: one}}) == {"round": {name: one}}
        with pytest.raises(SettingsError, match=", ".join(names)):
            checked({"round": {name: "another"}})


def test_the_projects_own_round_settings_are_used(project, manager):
    own = {"beta": 0.3, "lora": {"r": 8, "alpha": 8}}
    project.settings = {"round": {"config": own, "reference": "start"}}
    project.save()
    make_pairs(project, 2)
    asked = {"epochs": 2, "lora": {"r": 4}}
    training_round = start_round(project, manager, config=asked)
    assert training_round.config == {
        "beta": 0.3,
        "epochs": 2,
        "lora": {"r": 4, "alpha": 8},
    }
    assert training_round.reference == "start"


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"preset": "quick"}, "cumulative, incremental"),
        ({"reference": "none"}, "base, start"),
        ({"data": "some"}, "new_and_replay"),
        ({"start": "policy-0099-00000000"}, "policy-0099-00000000"),
        ({"config": {"betta": 0.1}}, '"beta"'),
        ({"config": {"beta": -1}}, '"beta" must be'),
        ({"config": {"base_model": "x"}}, "config.base_model"),
        ({"config": {"resume_from": "x"}}, "config.resume_from"),
        ({"config": {"lora": {"rank": 8}}}, "lora.r"),
        ({"config": {"lora": {"r": 4096}}}, "lora.r"),
        ({"config": {"tuning": "full"}}, "train it by hand"),
        ({"config": [1]}, "config"),
        ({"config": {"lora": 8}}, "lora"),
    ],
)
def test_a_wrong_choice_is_refused_by_name(project, manager, asked, word):
    make_pairs(project, 2)
    with pytest.raises(RoundRefused) as refusal:
        start_round(project, manager, **asked)
    assert refusal.value.status == 422
    assert word in refusal.value.message
    assert not TrainingRound.objects.exists()


def test_a_rank_that_vllm_cannot_serve_is_refused_though_nobody_asked_for_it(
    project, manager, settings
):
    make_pairs(project, 2)
    settings.VLLM_MAX_LORA_RANK = 8
    large = make_policy(project=project, rank=32)
    for start, rank in ((None, 16), (large, 32)):
        with pytest.raises(RoundRefused, match=f"“lora.r” is {rank}") as refusal:
            start_round(project, manager, start=start)
        assert refusal.value.status == 422
    small = make_policy(project=project, rank=8)
    assert start_round(project, manager, start=small).start == small


def test_another_projects_policy_is_no_start(project, manager):
    make_pairs(project, 2)
    with pytest.raises(RoundRefused):
        start_round(project, manager, start=make_policy())


def test_a_rejected_policy_is_no_start(project, manager):
    make_pairs(project, 2)
    policy = make_policy(project=project, rejected_reason="its canary failed")
    with pytest.raises(RoundRefused) as refusal:
        start_round(project, manager, start=policy)
    assert "its canary failed" in refusal.value.message
