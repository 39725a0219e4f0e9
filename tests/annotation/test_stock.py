"""The stock: how much is made, of which prompts, with what, and when nothing is."""

import logging
from io import BytesIO
from types import SimpleNamespace

import pytest
from django.utils import timezone

from annotation import stock, tasks
from annotation.importing import import_prompts
from annotation.leasing import skip, take_lease
from annotation.models import (
    Comparison,
    Completion,
    Lease,
    Slot,
    StockReservation,
)
from annotation.stock import fill_stock, fresh, missing, withdraw_stock
from inference.errors import IdenticalAnswers, InferenceError
from inference.models import Channel
from inference.sampling import SamplingParams
from inference.services import Sampled
from tests.factories import (
    make_comparison,
    make_judgment,
    make_lease,
    make_policy,
    make_project,
    make_prompt,
    make_user,
)

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


@pytest.fixture
def model(monkeypatch):
    """vLLM's place is taken at the seam; it answers, or fails where told to."""
    made = SimpleNamespace(asked=[], fault=None, faults={})

    def generate_pair(policy, messages, sampling):
        assert isinstance(sampling, SamplingParams)
        made.asked.append(messages)
        fault = made.fault or made.faults.get(messages[-1]["content"])
        if fault:
            raise fault
        return tuple(
            Sampled(
                policy=policy,
                text=f"Answer **{name}** to {messages[-1]['content']}",
                prompt_token_ids=[1, 2],
                token_ids=[3, 4],
                logprobs=[-0.5, -0.25],
                finish_reason="stop",
                seed=7,
                sampling=sampling.as_dict(),
            )
            for name in "ab"
        )

    monkeypatch.setattr("inference.services.generate_pair", generate_pair)
    # The thread's connection is the test's own on a rolled-back database.
    monkeypatch.setattr(stock.connections, "close_all", lambda: None)
    return made


def fill_prompts(project, count):
    return [make_prompt(f"Q{n}", project=project) for n in range(count)]


def test_the_stock_is_filled_up_to_the_setting_and_no_further(project, model):
    fill_prompts(project, 10)

    assert fill_stock(project) == 3
    assert fill_stock(project) == 0
    assert fresh(project) == 3
    assert not StockReservation.objects.exists()


def test_more_than_one_batch_is_made_in_one_go(project, model):
    project.settings = {"stock": 2 * stock.TOGETHER + 1}
    project.save()
    fill_prompts(project, 4)
    assert fill_stock(project) == 2 * stock.TOGETHER + 1


def test_a_comparison_keeps_everything_about_its_answers(project, model):
    prompt = make_prompt("Why?", project=project)
    project.settings = {
        "stock": 1,
        "quota": 3,
        "sampling": {"max_tokens": 99, "system_prompt": "Be kind."},
    }
    project.save()
    fill_stock(project)

    comparison = Comparison.objects.get()
    assert (comparison.prompt, comparison.purpose) == (prompt, "train")
    assert comparison.policy == project.channel.serving
    assert list(comparison.slots.values_list("number", "state")) == [
        (1, "open"),
        (2, "open"),
        (3, "open"),
    ]
    assert model.asked == [
        [{"role": "system", "content": "Be kind."}, *prompt.messages]
    ]
    for answer in (comparison.a, comparison.b):
        assert answer.policy == project.channel.serving
        assert answer.sampling["max_tokens"] == 99
        assert answer.sampling["system_prompt"] == "Be kind."
        assert (answer.seed, answer.finish_reason) == (7, "stop")
        assert (answer.token_ids, answer.logprobs) == ([3, 4], [-0.5, -0.25])
        assert "<strong>" in answer.html


def test_a_prompts_own_system_message_stays_the_only_one():
    own = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "Q"}]
    assert stock.with_system(own, "The project's.") == own


def test_the_first_comparisons_train_and_measure_in_the_project_s_shares(model):
    """200 prompts, a stock of 40, a share of 0.3: 12 ± 5 standard deviations of 2.9.

    Once the prompts set aside came first, all of them, and the first round had nothing.
    """
    project = make_project(settings={"stock": 40, "held_out_share": 0.3})
    lines = "".join(f'{{"prompt": "Question {n}?"}}\n' for n in range(200))
    import_prompts(project, BytesIO(lines.encode()), "jsonl")
    assert fill_stock(project) == 40
    held_out = Comparison.objects.filter(prompt__is_held_out=True).count()
    assert 0 < held_out < 27


def test_prompts_used_least_come_first(project, model):
    used, unused, twice = fill_prompts(project, 3)
    for prompt in (used, twice, twice):
        make_judgment(comparison=make_comparison(prompt=prompt))
    make_comparison(prompt=unused, state="withdrawn")  # nobody saw it
    project.settings = {"stock": 2}
    project.save()

    assert fill_stock(project) == 2
    assert [m[-1]["content"] for m in model.asked] == ["Q1", "Q0"]


def test_what_is_held_judged_or_skipped_is_made_up_for(project, model, annotator):
    fill_prompts(project, 10)
    fill_stock(project)
    take_lease(project, annotator)
    assert missing(project) == 1
    lease = take_lease(project, make_user(project=project))
    skip(lease)
    assert missing(project) == 2


def test_what_another_worker_is_making_counts(project, model):
    prompts = fill_prompts(project, 5)
    later = timezone.now() + timezone.timedelta(minutes=1)
    past = timezone.now() - timezone.timedelta(minutes=1)
    for prompt, until in zip(prompts, (later, later, past), strict=False):
        StockReservation.objects.create(project=project, prompt=prompt, until=until)

    assert fill_stock(project) == 1
    assert {m[-1]["content"] for m in model.asked}.isdisjoint({"Q0", "Q1"})
    assert StockReservation.objects.count() == 2  # the dead worker's is gone


def test_a_model_that_cannot_be_reached_is_said_once_and_tried_again(
    project, model, caplog
):
    fill_prompts(project, 5)
    model.fault = InferenceError("No vLLM server is ready.")
    with caplog.at_level(logging.WARNING):
        assert fill_stock(project) == 0
    assert [r.getMessage() for r in caplog.records] == [
        f"No comparisons made for {project.slug}: No vLLM server is ready."
    ]
    assert not StockReservation.objects.exists()

    model.fault = None
    assert fill_stock(project) == 3


def test_a_prompt_whose_answers_are_always_the_same_rests(project, model):
    fill_prompts(project, 4)
    model.faults = {"Q0": IdenticalAnswers("the same 8 times"), "Q1": None}

    assert fill_stock(project) == 3
    resting = StockReservation.objects.get()
    assert (resting.is_resting, resting.prompt.messages[0]["content"]) == (True, "Q0")
    assert sum(m[-1]["content"] == "Q0" for m in model.asked) <= 1


def test_when_every_prompt_rests_filling_stops(project, model):
    fill_prompts(project, 2)
    model.fault = IdenticalAnswers("the same")
    assert fill_stock(project) == 0
    assert len(model.asked) == 2
    assert not fill_stock(project)


def test_one_failing_request_does_not_waste_the_others(project, model):
    fill_prompts(project, 3)
    model.faults = {"Q1": InferenceError("too long for the model", permanent=True)}
    assert fill_stock(project) == 3
    assert {c.prompt.messages[0]["content"] for c in Comparison.objects.all()} == {
        "Q0",
        "Q2",
    }


def test_no_prompts_no_stock(project, model):
    assert fill_stock(project) == 0
    assert not stock.is_wanting(project)


def test_an_earlier_policys_stock_is_withdrawn_unless_somebody_is_at_it(project):
    old = [make_comparison(project=project, quota=2) for _ in range(4)]
    held = make_lease(comparison=old[0])
    make_judgment(comparison=old[1])
    late = make_lease(comparison=old[2])
    past = timezone.now() - timezone.timedelta(seconds=1)
    Slot.objects.filter(lease=late).update(expires_at=past)
    gold = make_comparison(project=project, purpose="gold")
    elsewhere = make_comparison()
    new_policy = make_policy(project=project)
    fresh_one = make_comparison(project=project, policy=new_policy)

    assert withdraw_stock(project, keep=new_policy) == 2
    assert withdraw_stock(project, keep=new_policy) == 0
    states = {c.pk: c.state for c in Comparison.objects.all()}
    assert [states[c.pk] for c in old] == ["open", "open", "withdrawn", "withdrawn"]
    assert [states[c.pk] for c in (gold, elsewhere, fresh_one)] == ["open"] * 3
    assert {s.state for c in old[2:] for s in c.slots.all()} == {"withdrawn"}
    late.refresh_from_db()
    held.refresh_from_db()
    assert (late.outcome, held.outcome) == (Lease.Outcome.EXPIRED, "")


def test_what_was_sampled_before_a_promotion_is_not_offered_after_it(
    project, model, monkeypatch
):
    make_prompt(project=project)
    new = make_policy(project=project)
    wanted = stock.judgments_wanted

    def overtaken(*given):
        Channel.objects.filter(pk=project.channel_id).update(serving=new)
        return wanted(*given)

    # Asked once the answers are there, before they are stored.
    monkeypatch.setattr(stock, "judgments_wanted", overtaken)
    fill_stock(project)
    assert set(Comparison.objects.values_list("policy", flat=True)) == {new.pk}


def test_filling_withdraws_what_a_promotion_left_behind(project, model):
    fill_prompts(project, 5)
    fill_stock(project)
    new_policy = make_policy(project=project)
    project.channel.serving = new_policy
    project.channel.save()

    assert stock.is_wanting(project)
    assert fill_stock(project) == 3
    open_ones = Comparison.objects.filter(state="open")
    assert {c.policy for c in open_ones} == {new_policy}
    assert not stock.is_wanting(project)


def test_the_beat_nudges_only_projects_that_want_something(project, nudges):
    make_prompt(project=project)
    make_project()  # without prompts
    tasks.fill_stocks()
    assert nudges == [project.pk]


def test_a_task_for_a_project_that_is_gone_does_nothing(project):
    tasks.fill_stock(project.pk + 1000)
    assert not Completion.objects.exists()
