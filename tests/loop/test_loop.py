"""The circle once, as people go round it, and then kill -9 in the middle of a round.

On the real stack. Judge, train, deploy and judge again, in a real browser; how the
single pages behave is tested in tests/browser and tests/annotation. Killing proves that
a crash of a process is survived: it heals, and nothing is lost or doubled. A power cut
is another matter and is not tested here. One file, as the tests of one file run in one
process and these share one stack.

What is killed with -9 here is killed with a lesser stack in `make test` as well
(tests/training/test_worker_faults.py, test_real_trainer.py, tests/inference/
test_real_vllm.py); the whole stack is struck in `make test-all`.
"""

import json
import os
import signal
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import wait_until
from tests.loop.stack import Stack
from tests.processes import is_alive
from tests.waiting import wait_for
from training.client import Client, Lease, Round

pytestmark = pytest.mark.loop

JUDGMENTS = 20
PAIRS = 12
LONG = {"epochs": 40, "batch_size": 4, "save_steps": 10, "max_length": 512}
"""With the new pairs alone some 120 steps: long enough to be struck in the middle."""


def sign_in(page: Page, stack: Stack, username: str) -> None:
    page.goto(f"{stack.url}/login/")
    page.get_by_label("Username").fill(username)
    page.get_by_label("Password").fill(stack.passwords()[username])
    page.keyboard.press("Enter")
    page.wait_for_url(f"{stack.url}/")


def judge_by_keyboard(page: Page) -> None:
    """Prefers the longer answer, and waits until the next pair is there."""
    pair = page.locator("#pair[data-lease]")
    pair.wait_for(timeout=60_000)
    lease = pair.get_attribute("data-lease")
    assert "policy-" not in page.content()
    first, second = pair.locator(".answer-text").all_inner_texts()
    page.keyboard.press("1" if len(first) > len(second) else "2")
    # Shown at once, and to be judged when the server has stored the pick.
    wait_until(
        page,
        "old => { const now = document.querySelector('#pair').dataset;"
        " return now.lease !== old && !now.busy; }",
        lease,
    )


def test_the_circle_closes_in_a_real_browser(stack, new_page):
    annotator, manager = new_page(), new_page()
    sign_in(annotator, stack, "annotator")
    annotator.goto(f"{stack.url}/projects/demo/compare/")
    for _ in range(JUDGMENTS):
        judge_by_keyboard(annotator)

    sign_in(manager, stack, "manager")
    manager.goto(f"{stack.url}/projects/demo/rounds/")
    wait_for(
        "the rules to be checked",
        lambda: stack.ask(
            "answer = not PreferencePair.objects.filter(state='unchecked').exists()"
        ),
        60,
    )
    manager.reload()
    manager.get_by_role("button", name="Start the round").click()
    manager.wait_for_load_state()
    assert "/rounds/" in manager.url, manager.locator("main").inner_text()
    assert not manager.locator(".notice.bad").count(), manager.locator(
        "main"
    ).inner_text()
    expect(manager.locator("progress").first).to_be_visible()
    # The page brings itself up to date; nobody reloads it.
    expect(manager.locator("main")).to_contain_text("succeeded", timeout=240_000)
    expect(manager.locator("canvas").first).to_be_visible()

    # The round has succeeded once its policy is registered; then that is tried.
    served = "answer = Project.objects.get(slug='demo').channel.serving.number"
    wait_for("the new policy to be served", lambda: stack.ask(served) == 1, 120)

    # What the annotator held may finish; everything after comes from the new policy.
    judge_by_keyboard(annotator)
    judge_by_keyboard(annotator)
    shown = stack.ask(
        "lease = Lease.objects.filter(annotator__username='annotator').latest('created_at')\n"
        "answer = lease.comparison.policy.number"
    )
    assert shown == 1


@pytest.fixture
def judged(stack: Stack, annotator: Client) -> set[str]:
    """Ids of judgments that the server has acknowledged."""
    acknowledged = set()
    lease = None
    while len(acknowledged) < PAIRS:
        if not isinstance(lease, Lease):
            lease = wait_for(
                "a comparison",
                lambda: (
                    (held := annotator.take_lease("demo"))
                    and (held if isinstance(held, Lease) else None)
                ),
                60,
            )
        verdict = (
            "first" if len(lease.first.text) > len(lease.second.text) else "second"
        )
        submitted = annotator.judge(lease, verdict)
        acknowledged.add(submitted.judgment.id)
        lease = submitted.next
    wait_for(
        "the rules to be checked",
        lambda: stack.ask(
            "answer = not PreferencePair.objects.filter(state='unchecked').exists()"
        ),
        60,
    )
    return acknowledged


def strike(stack: Stack, manager: Client, kill: Callable[[], None]) -> Round:
    """Start a round, kill in the middle of it, and wait for its end."""
    started = manager.start_round("demo", preset="incremental", data="new", config=LONG)

    def in_the_middle() -> bool:
        now = manager.round(started.id)
        assert not now.is_over, f"over before it was struck: {now}"
        return now.state == "training" and (now.progress["step"] or 0) >= 15

    wait_for("step 15", in_the_middle, 120)
    kill()

    most_trainers = 0

    def over() -> Round | None:
        nonlocal most_trainers
        most_trainers = max(most_trainers, len(stack.processes("training.dpo")))
        now = manager.round(started.id)
        return now if now.is_over else None

    ended = wait_for("the round to end", over, 240)
    assert most_trainers <= 1, "two trainers at once"
    return ended


def assert_healed(
    stack: Stack, ended: Round, judged: set[str], manager: Client
) -> None:
    assert ended.state == "succeeded", ended.error
    assert [p.round for p in manager.policies("demo")].count(ended.id) == 1
    steps = manager.metrics(ended.id).steps
    assert steps == sorted(set(steps)), "each step once"
    assert steps[-1] == ended.progress["total_steps"]
    standing = stack.ask(
        "answer = [str(pk) for pk in Judgment.objects.filter(undone_at=None)"
        ".values_list('pk', flat=True)]"
    )
    assert judged <= set(standing)


def kill_all(pids: list[int]) -> None:
    assert pids, "nothing to kill"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.long
def test_a_killed_gpu_worker_heals(stack, manager, judged):
    ended = strike(
        stack, manager, lambda: kill_all(stack.processes("celery", "worker", "gpu@"))
    )
    assert_healed(stack, ended, judged, manager)


@pytest.mark.long
def test_a_killed_trainer_heals(stack, manager, judged):
    ended = strike(stack, manager, lambda: kill_all(stack.processes("training.dpo")))
    assert_healed(stack, ended, judged, manager)


@pytest.mark.long
def test_a_killed_vllm_heals_and_serves_what_it_served(stack, manager, judged):
    serving = "answer = Project.objects.get(slug='demo').channel.serving.name"
    before = stack.ask(serving)
    ended = strike(
        stack, manager, lambda: kill_all(stack.processes("inference.vllm_process"))
    )
    assert_healed(stack, ended, judged, manager)
    # A promotion needs the server; with it back, the new policy serves.
    wait_for("the new policy to serve", lambda: stack.ask(serving) != before, 120)


def test_a_stopped_stack_leaves_nothing_and_its_round_goes_on(stack, manager, judged):
    """SIGTERM in the middle of a round: a checkpoint, no process, and then the rest."""

    def stop_and_start() -> None:
        below = stack.descendants()
        stack.stop(signal.SIGTERM)
        assert not [pid for pid in below if is_alive(pid)]
        stack.start()

    ended = strike(stack, manager, stop_and_start)
    assert_healed(stack, ended, judged, manager)
    folder = stack.data_dir / "rounds" / str(ended.id)
    first, second = (
        json.loads((attempt / "config.json").read_text())
        for attempt in sorted(folder.glob("attempt-*"))
    )
    assert first["resume_from"] is None
    assert second["resume_from"], "it went on from its checkpoint"
