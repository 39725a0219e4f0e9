"""The adjudication queue in a real browser: by keyboard alone, on a phone, without script."""

import pytest
from django.urls import reverse
from playwright.sync_api import Page, expect

from annotation.adjudicating import settle, shown_to
from annotation.models import Decision, Role
from tests.acts import decide
from tests.browser.conftest import NARROW
from tests.browser.desk import press
from tests.factories import (
    make_comparison,
    make_judgment,
    make_project,
    make_prompt,
    make_user,
)


@pytest.fixture
def project(transactional_db):
    return make_project(
        slug="kitchen", guidelines="Be **kind**.", settings={"quota": 2}
    )


@pytest.fixture
def rita(project):
    return make_user("rita", project=project, role=Role.REVIEWER)


@pytest.fixture
def review(browse, project, rita):
    """The review page with some comparisons that annotators split on."""

    def open_page(pairs: int = 3, **options) -> Page:
        for number in range(1, pairs + 1):
            prompt = make_prompt(f"Question number {number}?", project=project)
            comparison = make_comparison(prompt=prompt, quota=2)
            for verdict in ("first", "second"):
                make_judgment(
                    comparison=comparison, verdict=verdict, comment=f"for {verdict}"
                )
            decide(comparison)
        return browse(rita, reverse("review", args=["kitchen"]), **options)

    return open_page


def test_why_they_disagreed_is_asked_only_where_they_did(browse, project, rita, review):
    """Where a reviewer decides, what one person judged comes to review as well."""
    page = review(pairs=1)
    expect(page.get_by_role("radiogroup")).to_be_visible()
    project.settings = {"quota": 1, "decide_by": "reviewer"}
    project.save()
    page.keyboard.press("3")
    page.keyboard.press("1")
    expect(page.get_by_text("Nothing waits for a reviewer")).to_be_visible()
    alone = make_comparison(prompt=make_prompt("Alone?", project=project), quota=1)
    make_judgment(comparison=alone, verdict="second")
    decide(alone)
    page.reload()
    expect(question(page)).to_contain_text("Alone?")
    expect(page.get_by_role("radiogroup")).to_have_count(0)
    page.keyboard.press("3")  # of a question that is not there
    page.keyboard.press("1")
    expect(page.locator(".done")).to_contain_text("Decided")
    assert [decision.category for decision in decided()] == ["ambiguous", ""]


def question(page: Page):
    return page.locator(".question")


def decided() -> list[Decision]:
    rows = Decision.objects.filter(method="reviewer", superseded_at=None)
    return list(rows.order_by("comparison_id"))


def test_keys_of_a_russian_keyboard_go_by_their_place(review):
    page = review(pairs=2)
    press(page, key="и", code="KeyB")
    expect(question(page)).to_contain_text("Question number 2?")
    press(page, key="г", code="KeyU")
    expect(question(page)).to_contain_text("Question number 1?")


def test_the_queue_is_worked_off_by_keyboard_alone(review, rita):
    page = review(pairs=4)
    count = page.locator(".project-nav .count")
    expect(question(page)).to_contain_text("Question number 1?")
    expect(count).to_have_text("4")
    expect(page.locator(".opinion")).to_have_count(2)
    shown = page.locator(".answer-b .answer-text").inner_text()
    page.keyboard.press("5")
    page.keyboard.press("n")
    # Typing keys decides nothing; Escape leaves the box.
    page.keyboard.type("B says how long: 1 2 0 b x s u.")
    page.keyboard.press("Escape")
    expect(question(page)).to_contain_text("Question number 1?")
    page.keyboard.press("2")
    expect(question(page)).to_contain_text("Question number 2?")
    expect(page.locator(".done")).to_have_text("✓ Decided: B is better")
    expect(count).to_have_text("3")
    page.keyboard.press("s")
    expect(question(page)).to_contain_text("Question number 3?")
    page.keyboard.press("6")
    page.keyboard.press("6")  # again: taken back
    page.keyboard.press("x")
    expect(question(page)).to_contain_text("Question number 4?")
    page.keyboard.press("b")
    expect(question(page)).to_contain_text("Question number 2?")
    page.keyboard.press("0")
    expect(
        page.get_by_role("heading", name="Nothing waits for a reviewer")
    ).to_be_visible()

    first, second, third, fourth = decided()
    assert first.winner.text == shown
    assert first.note == "B says how long: 1 2 0 b x s u."
    assert [d.outcome for d in (second, third, fourth)] == ["tie", "split", "both_bad"]
    assert [d.category for d in decided()] == ["annotator_error", "", "", ""]
    assert {d.decided_by for d in decided()} == {rita}


def test_u_takes_the_last_decision_back_with_what_was_typed(review):
    page = review(pairs=1)
    page.keyboard.press("7")
    page.keyboard.press("n")
    page.keyboard.type("Only taste.")
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    expect(page.get_by_role("heading", name="Nothing waits")).to_be_visible()
    page.keyboard.press("u")
    expect(question(page)).to_contain_text("Question number 1?")
    expect(page.get_by_label("Note (optional)")).to_have_value("Only taste.")
    expect(page.get_by_label("matter of taste")).to_be_checked()
    assert decided() == []
    page.keyboard.press("0")
    expect(page.get_by_role("heading", name="Nothing waits")).to_be_visible()
    assert [d.outcome for d in decided()] == ["tie"]


def test_a_held_key_or_a_double_press_decides_one_pair(review):
    page = review(pairs=3)
    page.evaluate(
        """() => {
          for (const again of [1, 2]) document.body.dispatchEvent(
            new KeyboardEvent("keydown", {key: "0", bubbles: true}));
        }"""
    )
    expect(question(page)).to_contain_text("Question number 2?")
    assert len(decided()) == 1


def test_who_comes_too_late_keeps_what_was_typed(browse, review, project):
    browse.expected.append("409")
    page = review(pairs=2)
    page.keyboard.press("n")
    page.keyboard.type("An hour of thought.")
    page.keyboard.press("Escape")
    comparison = project.comparisons.order_by("pk").first()
    ruth = make_user("ruth", project=project, role=Role.REVIEWER)
    settle(project, comparison.pk, ruth, verdict="tie")
    page.keyboard.press("1")
    expect(page.locator(".idle-panel")).to_contain_text(
        "Another reviewer has decided this pair."
    )
    expect(page.get_by_label("What you typed")).to_have_value("An hour of thought.")
    page.get_by_role("link", name="Go on to the next pair").press("Enter")
    expect(question(page)).to_contain_text("Question number 2?")


def test_asking_for_names_keeps_what_was_typed(browse, review, project):
    review(pairs=3).close()
    manager = make_user("mara", project=project, role=Role.MANAGER)
    page = browse(manager, reverse("review", args=["kitchen"]))
    page.keyboard.press("n")
    page.keyboard.type("Half a note.")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Show names").press("Enter")
    hide = page.get_by_role("link", name="Hide names")
    expect(hide).to_be_focused()
    expect(page.locator(".opinion-who").first).to_contain_text("user")
    expect(page.get_by_label("Note (optional)")).to_have_value("Half a note.")
    page.keyboard.press("1")
    expect(question(page)).to_contain_text("Question number 2?")
    expect(hide).to_be_visible()  # who asked sees them at the next pair, too
    page.keyboard.press("s")
    expect(question(page)).to_contain_text("Question number 3?")
    hide.click()
    expect(page.get_by_role("link", name="Show names")).to_be_visible()
    assert [decision.note for decision in decided()] == ["Half a note."]


def test_it_works_without_javascript(review, rita):
    page = review(pairs=2, javascript=False)
    comparison = rita.memberships.get().project.comparisons.order_by("pk").first()
    page.get_by_role("button", name="A is better").click()
    expect(question(page)).to_contain_text("Question number 2?")
    assert decided()[0].winner_id == shown_to(rita, comparison)[0]
    page.get_by_role("button", name="Undo").click()
    expect(question(page)).to_contain_text("Question number 1?")
    page.get_by_role("link", name="Later").click()
    expect(question(page)).to_contain_text("Question number 2?")


def test_on_a_phone_the_verdicts_never_leave_the_screen(review):
    page = review(pairs=1, size=NARROW)
    controls = page.locator(".decision").locator("button:visible, a:visible")
    expect(controls).to_have_count(6)  # five verdicts and “Later”
    for control in controls.all():
        box = control.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= NARROW[0]
        assert box["y"] + box["height"] <= NARROW[1]
    page.get_by_role("button", name="Leave out").click()
    expect(page.get_by_role("heading", name="Nothing waits")).to_be_visible()
