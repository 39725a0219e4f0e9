"""What is said beside the verdict: flags, strength, reasons, criteria."""

from playwright.sync_api import expect

from annotation.models import Judgment, Lease
from tests.browser.desk import (
    ASKS_ALL,
    verdicts,
    wait_for_next,
)


# --- Flags ------------------------------------------------------------------------------
def test_f_and_a_digit_flag_the_pair_and_the_next_one_comes(desk):
    page = desk()
    page.keyboard.press("f")
    page.keyboard.press("3")
    wait_for_next(page, 2)
    expect(page.locator(".done")).to_contain_text("Flagged: not my language")
    lease = Lease.objects.get(outcome="skipped")
    assert lease.flag == "language"
    assert verdicts() == []


def test_something_else_needs_words_and_nothing_is_lost_meanwhile(desk, browse):
    browse.expected.append("422")
    page = desk()
    page.keyboard.press("f")
    page.keyboard.press("4")
    expect(
        page.get_by_role("alert").filter(has_text="Say in a few words")
    ).to_be_visible()
    assert not Lease.objects.exclude(flag="").exists()
    page.keyboard.press("f")
    page.get_by_label("In a few words").fill("the answers are swapped with another 1 2")
    page.get_by_role("button", name="something else").click()
    wait_for_next(page, 2)
    flagged = Lease.objects.get(flag="other")
    assert flagged.skip_reason == "the answers are swapped with another 1 2"


def test_the_words_that_a_flag_needs_can_be_typed_at_once_and_judge_nothing(
    desk, browse
):
    browse.expected.append("422")
    page = desk()
    page.keyboard.press("f")
    page.keyboard.press("4")
    expect(page.get_by_label("In a few words")).to_be_focused()
    page.keyboard.type("both say B 2 times")
    expect(page.get_by_label("In a few words")).to_have_value("both say B 2 times")
    page.get_by_role("button", name="something else").click()
    wait_for_next(page, 2)
    assert Lease.objects.get(flag="other").skip_reason == "both say B 2 times"
    assert verdicts() == []


def test_the_flag_panel_shuts_by_escape_and_by_a_press_elsewhere(desk):
    page = desk()
    panel = page.locator(".flag-panel")
    page.keyboard.press("f")
    expect(panel).to_be_visible()
    expect(panel.get_by_role("button", name="unsafe")).to_be_focused()
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    page.keyboard.press("f")
    page.locator("h1").click()
    expect(panel).to_be_hidden()
    page.keyboard.press("1")
    wait_for_next(page, 2)
    assert verdicts() == ["first"]


# --- Strength, reasons, criteria ---------------------------------------------------------
def test_strength_and_reasons_are_one_stroke_each_and_may_be_left_out(desk):
    page = desk(settings=ASKS_ALL)
    page.keyboard.press("1")
    wait_for_next(page, 2)
    for key in "8342":
        page.keyboard.press(key)
    wait_for_next(page, 3)
    plain, full = Judgment.objects.order_by("created_at")
    assert (plain.strength, plain.reasons, plain.criteria) == (None, [], {})
    assert (full.verdict, full.strength) == ("second", 2)
    assert full.reasons == ["correct", "clear"]


def test_the_same_strength_key_again_takes_it_back(desk):
    page = desk(settings=ASKS_ALL)
    page.keyboard.press("9")
    expect(page.get_by_role("radio", name="much better")).to_be_checked()
    page.keyboard.press("9")
    expect(page.get_by_role("radio", name="much better")).not_to_be_checked()


def test_criteria_are_answered_one_after_the_other_with_the_keys_of_the_verdicts(desk):
    page = desk(settings=ASKS_ALL)
    for key in "k20":
        page.keyboard.press(key)
    helpful = page.get_by_role("radiogroup", name="helpful")
    expect(helpful.get_by_role("radio", name="B is better")).to_be_checked()
    assert verdicts() == [], "those keys judged the criteria, not the pair"
    page.keyboard.press("1")
    wait_for_next(page, 2)
    judgment = Judgment.objects.get()
    second = judgment.lease.second_id
    assert judgment.criteria == {"helpful": second, "harmless": None}
    assert judgment.winner_id == judgment.lease.first_id


def test_leaving_the_criteria_gives_the_keys_back_to_the_verdict(desk):
    page = desk(settings=ASKS_ALL)
    page.keyboard.press("k")
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    wait_for_next(page, 2)
    assert verdicts() == ["second"]
    assert Judgment.objects.get().criteria == {}


def test_the_focus_has_one_ring_around_all_that_a_click_would_hit(desk):
    page = desk(settings=ASKS_ALL)
    for name in ("strength", "reasons"):
        page.locator(f"[name='{name}']").first.focus()
        rings = page.evaluate("""() => {
            let rings = [];
            for (let one = document.activeElement; one; one = one.parentElement)
                if (getComputedStyle(one).outlineStyle !== "none") rings.push(one.className);
            return rings;
        }""")
        assert rings == ["chip"]
