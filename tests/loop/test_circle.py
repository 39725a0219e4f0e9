"""The circle once, as people go round it: judge, train, deploy, and judge again.

In a real browser against the real stack. How the single pages behave is tested in
tests/browser and tests/annotation.
"""

import pytest
from playwright.sync_api import Page, expect

from tests.loop.stack import Stack, wait_for

pytestmark = pytest.mark.loop

JUDGMENTS = 20


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
    first, second = page.locator(".answer-text").all_inner_texts()
    page.keyboard.press("1" if len(first) > len(second) else "2")
    page.wait_for_function(
        "old => document.querySelector('#pair').dataset.lease !== old",
        arg=lease,
        timeout=60_000,
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

    served = stack.ask(
        "answer = Project.objects.get(slug='demo').channel.serving.number"
    )
    assert served == 1, "auto_deploy should serve the new policy"

    # What the annotator held may finish; everything after comes from the new policy.
    judge_by_keyboard(annotator)
    judge_by_keyboard(annotator)
    shown = stack.ask(
        "lease = Lease.objects.filter(annotator__username='annotator').latest('created_at')\n"
        "answer = lease.comparison.policy.number"
    )
    assert shown == 1
