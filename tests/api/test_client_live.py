"""The client and the simulation against the real server, over real sockets.

Only the model, the trainer and the broker are played: answers are drawn from a
script, and a nudge makes a round succeed at once.
"""

import io
import random
from types import SimpleNamespace

import pytest
from django.core.management import CommandError, call_command
from knox.models import AuthToken

from annotation.checking import check_waiting
from annotation.models import Comparison, Judgment, Lease
from inference.models import Channel
from tests.factories import (
    make_comparison,
    make_completion,
    make_policy,
    make_project,
    make_prompt,
    make_user,
)
from training import measuring, simulation
from training.client import Client, ProblemError, Wait
from training.models import RoundMetric, TrainingRound

pytestmark = pytest.mark.django_db(transaction=True)

LIST = "1. Warm the cup well.\n2. Pour in the water.\n3. Wait for three minutes."
PLAIN = "You simply pour hot water over the leaves and wait for three minutes."


@pytest.fixture(autouse=True)
def _no_broker(monkeypatch):
    for part in ("ending", "leasing"):
        monkeypatch.setattr(f"annotation.{part}.nudge", lambda project: None)


@pytest.fixture
def project():
    return make_project(slug="demo")


def stock(project, count):
    """Comparisons of a list and a plain answer, either of them first."""
    for number in range(count):
        prompt = make_prompt(project=project)
        texts = [f"{LIST} ({number})", f"{PLAIN} ({number})"]
        random.Random(number).shuffle(texts)
        a, b = (make_completion(text, prompt=prompt) for text in texts)
        make_comparison(a=a, b=b)


def sign_in(live_server, name, project, role, **fields):
    user = make_user(name, project=project, role=role, **fields)
    return Client(live_server.url, AuthToken.objects.create(user)[1])


def test_a_manager_and_an_annotator_go_once_round(live_server, project):
    with (
        sign_in(live_server, "mona", project, "manager") as mona,
        sign_in(live_server, "alice", project, "annotator") as alice,
    ):
        report = mona.import_prompts("demo", '{"prompt": "Why?"}\n{"prompt": 7}\n')
        assert (report.accepted, report.rejected[0]["line"]) == (1, 2)
        assert isinstance(alice.take_lease("demo"), Wait)

        stock(project, 2)
        lease = alice.take_lease("demo")
        submitted = alice.judge(lease, "first", comment="clear")
        assert not submitted.is_replay and submitted.next.key != lease.key
        assert alice.judge(lease, "first", comment="clear").is_replay
        with pytest.raises(ProblemError, match="409"):
            alice.judge(lease, "second")
        fresh = alice.undo(submitted.judgment)
        assert fresh.first.text == lease.first.text
        alice.skip(fresh, "unsure")

        other = alice.take_lease("demo")
        assert other.prompt != lease.prompt
        assert alice.judge(other, "first").next is None
        assert isinstance(alice.take_lease("demo"), Wait)
        check_waiting()
        assert mona.project("demo").counts["pairs"] == 1
        (row,) = mona.export_pairs("demo")
        assert row["chosen"][0]["role"] == "assistant"
        with pytest.raises(ProblemError, match="403"):
            next(alice.export_pairs("demo"))
        with pytest.raises(ProblemError, match="422") as refused:
            mona.start_round("demo")
        assert refused.value.problem["funnel"]
        assert [p.state for p in mona.policies("demo")] == ["serving"]
        assert mona.members("demo") == {"mona": "manager", "alice": "annotator"}
        assert mona.stats("demo")["annotators"][0]["username"] == "alice"
        assert [found.slug for found in mona.projects()] == ["demo"]


def test_several_annotators_give_exactly_the_judgments_asked_for(live_server, project):
    stock(project, 20)
    with simulation.crew(project, 3, live_server.url) as people:
        verdicts = simulation.judge(people, "lists", 12)
    assert sum(verdicts.values()) == 12 == Judgment.objects.count()
    for judgment in Judgment.objects.select_related("winner"):
        assert judgment.winner.text.startswith("1.")
    assert not Lease.objects.filter(outcome="").exists()
    assert not AuthToken.objects.exists()


def test_told_to_stop_nobody_keeps_a_lease(live_server, project):
    stock(project, 6)
    with simulation.crew(project, 2, live_server.url) as people:
        given = []

        def progress(verdict):
            given.append(verdict)
            people.stopped.set()

        simulation.judge(people, "lists", 6, progress=progress)
    assert 1 <= len(given) <= 2
    assert Judgment.objects.count() == len(given)
    assert not Lease.objects.filter(outcome="").exists()


@pytest.fixture
def world(live_server, project, monkeypatch):
    """What workers and vLLM would do: check pairs, train at once, answer as told."""
    shares = {project.base.name: 0.1}

    def check(people, say):
        check_waiting()

    def train(round_id):
        row = TrainingRound.objects.get(pk=round_id)
        policy = make_policy(project=project)
        # Each round, half of what is missing to nothing but lists.
        shares[policy.name] = 1 - (1 - max(shares.values())) / 2
        margin = {"rewards/margins": 1.5}
        RoundMetric.objects.create(training_round=row, step=8, values=margin)
        TrainingRound.objects.filter(pk=round_id).update(
            state="succeeded", policy=policy, step=8, total_steps=8
        )

    def deploy(policy, by=None, project=None):
        Channel.objects.filter(pk=project.channel_id).update(serving=policy)

    def sample(policy, messages, n, sampling):
        ask = random.Random(f"{policy.name}{messages}")
        return [
            SimpleNamespace(
                text=LIST if ask.random() < shares[policy.name] else PLAIN,
                finish_reason="stop",
            )
            for _number in range(n)
        ]

    monkeypatch.setattr(simulation, "wait_until_checked", check)
    monkeypatch.setattr(simulation, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(measuring, "sample", sample)
    monkeypatch.setattr("training.rounds.nudge", train)
    monkeypatch.setattr("training.promotion.promote", deploy)
    stock(project, 60)

    def simulate(**options):
        out, err = io.StringIO(), io.StringIO()
        arguments = {
            "project": "demo",
            "prefer": "lists",
            "judgments": 10,
            "rounds": 2,
            "annotators": 2,
            "url": live_server.url,
            "stdout": out,
            "stderr": err,
        }
        try:
            call_command("simulate", **(arguments | options))
            code = 0
        except SystemExit as end:
            code = end.code
        return code, out.getvalue()

    return simulate


def test_two_rounds_are_simulated_measured_and_told(world, project):
    """From 10 % to 55 % to 77.5 % of 60 answers: the goal of half is reached."""
    code, told = world(goal=0.5)
    assert code == 0
    assert "the goal of 50% is reached" in told
    assert "1.50" in told and "lists before → after" in told
    assert [row.number for row in TrainingRound.objects.order_by("number")] == [1, 2]
    assert Judgment.objects.count() == 20
    serving = Channel.objects.get(pk=project.channel_id).serving
    assert serving == TrainingRound.objects.get(number=2).policy
    assert not Lease.objects.filter(outcome="").exists()


def test_a_missed_goal_is_told_by_the_exit_code(world):
    code, told = world(rounds=1, goal=0.99)
    assert code == 1
    assert "the goal of 99% is missed" in told


def test_what_cannot_be_is_said_in_a_sentence(world, project):
    with pytest.raises(CommandError, match="no project “nowhere”. There are: demo"):
        world(project="nowhere")
    with pytest.raises(CommandError, match="noise"):
        world(noise=2.0)
    with pytest.raises(CommandError, match="speed"):
        world(speed=-1.0)
    with pytest.raises(CommandError, match="invalid choice: 'comulative'"):
        call_command(
            "simulate", "--project=demo", "--prefer=lists", "--preset=comulative"
        )
    TrainingRound.objects.create(
        project=project, number=9, start=project.base, reference="base", data="all"
    )
    with pytest.raises(CommandError, match="no round was started: 409"):
        world()


def test_a_server_that_is_not_there_is_said_so_before_anything_is_measured(
    world, monkeypatch
):
    monkeypatch.setattr(simulation.Client, "__init__", _impatient)
    monkeypatch.delattr(measuring, "sample")
    with pytest.raises(CommandError, match="does not answer"):
        world(url="http://127.0.0.1:9")
    assert not Comparison.objects.filter(state="decided").exists()


_original = Client.__init__


def _impatient(self, url, token, **options):
    _original(self, url, token, patience=0.0)
