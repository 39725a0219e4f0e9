"""A desk as its person has it: own keys, breaks, text size, and the drawers beside it."""

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from annotation.models import Preferences
from tests.browser.conftest import NARROW
from tests.browser.desk import (
    press,
    question,
    verdicts,
    wait_for_next,
)
from tests.factories import (
    make_comparison,
    make_judgment,
    make_prompt,
)


def test_own_keys_are_shown_on_the_buttons_and_do_what_they_say(
    desk, browse, annotator
):
    page = desk()
    page.goto(browse.url + "/preferences/")
    page.get_by_label("A is better").press("j")
    page.get_by_label("B is better").press("L")
    page.get_by_label("last ten").fill("")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    page.goto(browse.url + reverse("compare", args=["kitchen"]))
    expect(page.locator("button.verdict.a kbd")).to_have_text("j")
    page.keyboard.press("1")
    page.keyboard.press("j")
    wait_for_next(page, 2)
    # The partial comes without them; the page puts them on.
    expect(page.locator("button.verdict.b kbd")).to_have_text("l")
    assert page.locator("button.verdict.b").get_attribute("aria-keyshortcuts") == "l"
    page.keyboard.press("l")
    wait_for_next(page, 3)
    assert verdicts() == ["first", "second"]
    page.keyboard.press("?")
    expect(page.locator("#help")).to_contain_text("j")


@pytest.mark.parametrize(
    "key, code, verdict",
    [
        ("и", "KeyB", "both_bad"),  # Russian; B in capitals is И
        ("И", "KeyB", "both_bad"),
        ("ㅠ", "KeyB", "both_bad"),  # Korean
        ("é", "Digit2", "second"),  # French: digits are under shift
        ("à", "Digit0", "tie"),
        ("Process", "KeyB", "both_bad"),  # an input method that is on
    ],
)
def test_keys_without_latin_letters_or_digits_go_by_their_place(
    desk, key, code, verdict
):
    page = desk()
    press(page, key=key, code=code)
    wait_for_next(page, 2)
    assert verdicts() == [verdict]


def test_a_key_that_is_there_itself_never_goes_by_its_place(desk, annotator):
    """Shift and 1 is !; on a Dvorak keyboard x is where B is; one's own key goes first."""
    Preferences.objects.create(user=annotator, keys={"tie": "и"})
    page = desk()
    press(page, key="!", code="Digit1", shiftKey=True)
    press(page, key="x", code="KeyB")
    press(page, key=" ", code="Space")
    press(page, key="и", code="KeyB")
    wait_for_next(page, 2)
    assert verdicts() == ["tie"]


def test_one_key_for_two_acts_is_refused_and_named(browse, annotator):
    browse.expected.append("422")
    page = browse(annotator, "/preferences/")
    page.get_by_label("Skip").fill("u")
    page.get_by_role("button", name="Save").click()
    alert = page.get_by_role("alert").first
    expect(alert).to_contain_text(
        "The key “U” is also that of: Undo your last judgment"
    )
    expect(page.get_by_label("Skip")).to_have_value("u")
    assert not Preferences.objects.exists()
    page.get_by_role("button", name="Back to the defaults").click()
    expect(page.get_by_label("Skip")).to_have_value("s")


def test_a_break_is_suggested_between_pairs_and_goes_away_when_told(desk):
    page = desk()
    expect(page.locator("#break")).to_be_hidden()
    page.evaluate(
        """() => localStorage.setItem(store + "work",
             JSON.stringify({ since: Date.now() - 51 * 60000, last: Date.now() - 1000 }))"""
    )
    page.keyboard.press("1")
    wait_for_next(page, 2)
    expect(page.locator("#break")).to_contain_text("51 minutes")
    page.get_by_role("button", name="All right").click()
    page.keyboard.press("2")
    wait_for_next(page, 3)
    expect(page.locator("#break")).to_be_hidden()


def test_a_break_that_was_taken_is_suggested_no_more(desk):
    """Suggested after 51 minutes; nobody pressed the button, but they were away for six."""
    page = desk()
    worked = """([since, last]) => localStorage.setItem(store + "work", JSON.stringify(
      { since: Date.now() - since * 60000, last: Date.now() - last * 60000 }))"""
    page.evaluate(worked, [51, 0])
    page.keyboard.press("1")
    wait_for_next(page, 2)
    expect(page.locator("#break")).to_be_visible()
    page.evaluate(worked, [57, 6])
    page.keyboard.press("1")
    wait_for_next(page, 3)
    expect(page.locator("#break")).to_be_hidden()


def test_text_size_is_as_the_person_set_it(desk, annotator):
    Preferences.objects.create(user=annotator, text_size="larger", beat=0)
    page = desk()
    size = (
        "parseFloat(getComputedStyle(document.querySelector('.answer-text')).fontSize)"
    )
    assert page.evaluate(size) > 20
    page.keyboard.press("1")
    wait_for_next(page, 2)
    assert page.evaluate(size) > 20


# --- Last ten, guidelines ------------------------------------------------------------------
def test_any_of_the_last_ten_can_be_changed_from_the_drawer(desk, project, annotator):
    for number in range(1, 13):
        prompt = make_prompt(f"Old question {number}?", project=project)
        comparison = make_comparison(prompt=prompt)
        make_judgment(comparison=comparison, annotator=annotator, verdict="tie")
    page = desk()
    page.keyboard.press("l")
    drawer = page.get_by_role("dialog", name="Last ten")
    expect(drawer.get_by_role("listitem")).to_have_count(10)
    expect(drawer.get_by_role("listitem").first).to_contain_text("Old question 12?")
    drawer.get_by_role("button", name="Old question 7?").click()
    expect(question(page)).to_contain_text("Old question 7?")
    page.keyboard.press("1")
    wait_for_next(page, 1)
    # It stays open beside the answers and tells what has just been judged.
    expect(drawer.get_by_role("listitem").first).to_contain_text("Old question 7?")
    expect(drawer.get_by_role("listitem").first).to_contain_text("A is better")


def test_on_a_phone_the_drawer_lies_over_the_page_and_shuts_after_the_choice(
    desk, project, annotator
):
    comparison = make_comparison(prompt=make_prompt("Old one?", project=project))
    make_judgment(comparison=comparison, annotator=annotator, verdict="tie")
    page = desk(size=NARROW)
    page.get_by_role("link", name="Last ten").click()
    drawer = page.get_by_role("dialog", name="Last ten")
    drawer.get_by_role("button", name="Old one?").click()
    expect(question(page)).to_contain_text("Old one?")
    expect(drawer).to_be_hidden()


def test_guidelines_stay_open_beside_the_answers_and_keys_go_on_working(desk):
    page = desk()
    page.keyboard.press("g")
    drawer = page.get_by_role("dialog", name="Guidelines")
    expect(drawer).to_contain_text("Be kind.")
    page.keyboard.press("1")
    wait_for_next(page, 2)
    expect(drawer).to_be_visible()
    page.reload()
    expect(drawer).to_be_visible()
    page.keyboard.press("g")
    expect(drawer).to_be_hidden()
    page.reload()
    expect(drawer).to_be_hidden()
