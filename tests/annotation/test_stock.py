"""The stock: how much is made, of which prompts, with what, and when nothing is."""

import logging
import threading
from io import BytesIO
from types import SimpleNamespace

import pytest
from django.db import connection
from django.utils import timezone

from annotation import filling, stock, tasks
from annotation.ending import skip
from annotation.filling import fill_stock
from annotation.importing import import_prompts
from annotation.leasing import take_lease
from annotation.models import (
    Comparison,
    Completion,
    Lease,
    Project,
    Slot,
    StockReservation,
)
from annotation.nudging import forget_hints
from annotation.projects import update_project
from annotation.stock import fresh, missing, withdraw_stock
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
    make_server,
    make_user,
)
from tests.waiting import wait_for

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


@pytest.fixture
def model(db, monkeypatch):
    """vLLM's place is taken at the seam; it answers, or fails where told to.

    `meanwhile(messages)` is called while it is at an answer.
    """
    made = SimpleNamespace(asked=[], fault=None, faults={}, server=make_server())
    made.meanwhile, made.at_once, made.most_at_once = lambda messages: None, 0, 0
    lock = threading.Lock()

    def generate_pair(policy, messages, sampling, servers):
        assert isinstance(sampling, SamplingParams)
        assert servers == [made.server]
        with lock:
            made.asked.append(messages)
            made.at_once += 1
            made.most_at_once = max(made.most_at_once, made.at_once)
        try:
            made.meanwhile(messages)
        finally:
            with lock:
                made.at_once -= 1
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
    monkeypatch.setattr(filling.connections, "close_all", lambda: None)
    return made


def announce(prompt):
    """As a worker does that is at this prompt."""
    soon = timezone.now() + timezone.timedelta(seconds=20)
    return StockReservation.objects.create(
        project=prompt.project, prompt=prompt, until=soon
    )


def fill_prompts(project, count):
    return [make_prompt(f"Q{n}", project=project) for n in range(count)]


def test_the_stock_is_filled_up_to_the_setting_and_no_further(project, model):
    fill_prompts(project, 10)

    assert fill_stock(project) == 3
    assert fill_stock(project) == 0
    assert fresh(project) == 3
    assert not StockReservation.objects.exists()


def test_more_than_is_asked_for_at_once_is_made_in_one_go(project, model, settings):
    settings.SAMPLING_PAIRS = 3
    project.settings = {"stock": 7}
    project.save()
    fill_prompts(project, 4)
    assert fill_stock(project) == 7


def test_a_long_answer_holds_up_no_other_pair(project, model, settings):
    """Four at a time of twelve; the first ends only once all others were asked for."""
    settings.SAMPLING_PAIRS = 4
    project.settings = {"stock": 12}
    project.save()
    fill_prompts(project, 12)

    def meanwhile(messages):
        others = 12 if messages == model.asked[0] else 4
        wait_for("the others", lambda: len(model.asked) >= others, 20)

    model.meanwhile = meanwhile
    assert fill_stock(project) == 12
    assert model.most_at_once == 4


def test_projects_short_at_the_same_time_share_the_servers(project, model, settings):
    settings.SAMPLING_PAIRS = 6
    project.settings = {"stock": 12}
    project.save()
    fill_prompts(project, 12)
    for _ in range(2):
        announce(make_prompt(project=make_project()))
    model.meanwhile = lambda messages: wait_for(
        "another one", lambda: len(model.asked) >= 2, 20
    )
    assert fill_stock(project) == 12
    assert model.most_at_once == 2


def test_a_project_that_another_worker_fills_is_left_to_it(project, model):
    prompts = fill_prompts(project, 5)
    theirs = announce(prompts[0])
    assert missing(project) == 2
    assert fill_stock(project) == 0
    assert not model.asked

    # Dead: it has given no sign for a while.
    StockReservation.objects.filter(pk=theirs.pk).update(until=timezone.now())
    assert fill_stock(project) == 3
    assert not StockReservation.objects.exists()


def test_a_clock_set_back_makes_no_dead_worker_live_on_nor_a_prompt_rest_for_long(
    project, model
):
    in_an_hour = timezone.now() + timezone.timedelta(hours=1)
    announced, resting = fill_prompts(project, 2)
    for prompt, is_resting in ((announced, False), (resting, True)):
        StockReservation.objects.create(
            project=project, prompt=prompt, is_resting=is_resting, until=in_an_hour
        )
    assert missing(project) == 3
    assert fill_stock(project) == 3
    assert not StockReservation.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_worker_at_a_slow_model_says_that_it_lives(project, model, monkeypatch):
    monkeypatch.setattr(filling, "RENEWED_EVERY", 0.01)
    project.settings = {"stock": 1}
    project.save()
    fill_prompts(project, 1)
    until = []

    def is_renewed():
        until.append(StockReservation.objects.get().until)
        return until[-1] > until[0]

    def slow(messages):
        wait_for("another sign", is_renewed, 20)
        connection.close()

    model.meanwhile = slow
    assert fill_stock(project) == 1


@pytest.mark.django_db(transaction=True)
def test_a_setting_changed_meanwhile_holds_for_what_is_asked_next(
    project, model, settings, nudges
):
    settings.SAMPLING_PAIRS = 1
    fill_prompts(project, 3)

    def change(messages):
        if messages == model.asked[0]:
            update_project(project, settings={"sampling": {"max_tokens": 7}})
            connection.close()

    model.meanwhile = change
    assert fill_stock(Project.objects.get(pk=project.pk)) == 3
    told = [made.a.sampling["max_tokens"] for made in Comparison.objects.order_by("pk")]
    assert told == [256, 7, 7]


@pytest.mark.django_db(transaction=True)
def test_what_was_sampled_by_a_worker_that_stood_still_is_not_stored_beside_the_others(
    project, model
):
    """Another one took over and has filled the stock by the time it goes on."""
    project.settings = {"stock": 1}
    project.save()
    fill_prompts(project, 2)
    stood_still = threading.Event()

    def take_over(messages):
        if not stood_still.is_set():
            stood_still.set()
            StockReservation.objects.update(until=timezone.now())
            assert fill_stock(project) == 1
            connection.close()

    model.meanwhile = take_over
    assert fill_stock(project) == 0
    assert fresh(project) == 1


def test_prompts_refused_for_a_setting_are_asked_again_once_it_is_changed(
    project, model, nudges
):
    """A manager who asked for too long answers waited ten minutes after mending that."""
    fill_prompts(project, 3)
    model.fault = InferenceError("max_tokens is too large", permanent=True)
    fill_stock(project)
    model.fault = None
    update_project(project, settings={"stock": 2})
    assert fill_stock(project) == 0
    update_project(project, settings={"sampling": {"max_tokens": 99}})
    assert fill_stock(project) == 2


@pytest.mark.django_db(transaction=True)
def test_a_worker_that_is_to_stop_stores_what_it_has_asked_for_and_no_more(
    project, model, settings, monkeypatch
):
    """It filled the whole stock first: `make run` killed it amid that, pairs and all."""
    settings.SAMPLING_PAIRS = 2
    fill_prompts(project, 3)
    monkeypatch.setattr(filling.shutdown, "requested", lambda: len(model.asked) >= 2)
    assert fill_stock(project) == 2
    assert not StockReservation.objects.exists()


def test_a_policy_that_refuses_every_prompt_is_not_asked_for_all_of_them(
    project, model
):
    fill_prompts(project, 40)
    model.fault = InferenceError("policy-0007 was rejected", permanent=True)
    assert fill_stock(project) == 0
    assert filling.REFUSED_IN_A_ROW <= len(model.asked) < 20


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


@pytest.mark.django_db(transaction=True)
def test_answers_are_rendered_before_the_transaction(project, model, monkeypatch):
    """A long answer takes a while; SQLite has one writer, and people judge meanwhile."""
    fill_prompts(project, 3)
    seen = []

    def render(text):
        seen.append(connection.in_atomic_block)
        return text

    monkeypatch.setattr(filling, "render_markdown", render)
    assert fill_stock(project) == 3
    assert seen == 6 * [False]


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


def test_a_fault_of_ours_leaves_nothing_announced(project, model):
    fill_prompts(project, 3)
    model.fault = ZeroDivisionError("a fault of ours")
    with pytest.raises(ZeroDivisionError):
        fill_stock(project)
    assert not StockReservation.objects.exists()


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
    wanted = filling.judgments_wanted

    def overtaken(*given):
        Channel.objects.filter(pk=project.channel_id).update(serving=new)
        return wanted(*given)

    # Asked once the answers are there, before they are stored.
    monkeypatch.setattr(filling, "judgments_wanted", overtaken)
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


@pytest.mark.django_db(transaction=True)
def test_new_prompts_and_settings_ask_for_pairs_at_once(project, nudges):
    """Not only at the beat's next turn: whoever imports prompts is waiting for a pair."""
    line = BytesIO(b'{"prompt": "Why?"}')
    import_prompts(project, line, "jsonl")
    assert nudges == [project.pk]
    line.seek(0)
    import_prompts(project, line, "jsonl")  # a duplicate
    assert nudges == [project.pk]

    forget_hints()
    update_project(project, settings={"stock": 9})
    assert nudges == [project.pk] * 2
    update_project(project, name="Another")
    assert nudges == [project.pk] * 2


def test_a_task_for_a_project_that_is_gone_does_nothing(project):
    tasks.fill_stock(project.pk + 1000)
    assert not Completion.objects.exists()
