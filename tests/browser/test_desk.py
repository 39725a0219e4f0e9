"""The annotator's whole desk in a real browser: improving an answer, flags, criteria,
own keys, drawers, breaks, and that nothing typed is ever lost.
"""

import json
from datetime import timedelta

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.contrib.sessions.models import Session
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import Page, expect

from annotation.diffing import word_diff
from annotation.leasing import take_lease
from annotation.models import Completion, Judgment, Lease, Preferences, Slot
from tests.browser.conftest import NARROW
from tests.browser.test_compare import KEPT, question, verdicts
from tests.factories import (
    make_comparison,
    make_judgment,
    make_project,
    make_prompt,
    make_user,
)

ASKS_ALL = {
    "ask_strength": True,
    "ask_reasons": ["correct", "clear"],
    "criteria": ["helpful", "harmless"],
}


@pytest.fixture
def project(transactional_db):
    return make_project(slug="kitchen", guidelines="Be **kind**.")


@pytest.fixture
def annotator(project):
    return make_user("alice", project=project)


@pytest.fixture
def desk(browse, project, annotator):
    """The compare page with some pairs ready."""

    def open_page(pairs: int = 3, settings: dict | None = None, **options) -> Page:
        project.settings = settings or {}
        project.save()
        for number in range(1, pairs + 1):
            prompt = make_prompt(f"Question number {number}?", project=project)
            make_comparison(prompt=prompt)
        return browse(annotator, reverse("compare", args=["kitchen"]), **options)

    return open_page


def editor(page: Page):
    return page.locator(".edit[open] textarea")


def shown(page: Page, letter: str) -> str:
    return page.locator(f".answer-{letter} .answer-text").inner_text()


def wait_for_next(page: Page, number: int) -> None:
    expect(question(page)).to_contain_text(f"Question number {number}?")


# --- Improving an answer ---------------------------------------------------------------
def test_an_answer_is_improved_by_keys_alone_and_stored_as_the_best(desk):
    page = desk()
    better = shown(page, "b")
    page.keyboard.press("r")
    expect(editor(page)).to_be_focused()
    expect(editor(page)).to_have_value(better)
    page.keyboard.press("Control+End")
    page.keyboard.type(" And it says why, b u 1 2.")
    expect(page.locator(".diff:visible ins")).to_have_text(" And it says why, b u 1 2.")
    page.keyboard.press("Escape")
    expect(page.locator("#answer-a")).to_be_focused()
    page.keyboard.press("2")
    wait_for_next(page, 2)
    judgment = Judgment.objects.get()
    assert judgment.verdict == "second"
    assert judgment.edited.text == f"{better} And it says why, b u 1 2."
    assert judgment.edited.edited_from == judgment.winner
    assert judgment.edited.author == judgment.annotator


def test_ctrl_enter_in_the_editor_picks_that_answer(desk):
    page = desk()
    page.keyboard.press("e")
    editor(page).fill("Better in every way.")
    page.keyboard.press("Control+Enter")
    wait_for_next(page, 2)
    judgment = Judgment.objects.get()
    assert (judgment.verdict, judgment.edited.text) == ("first", "Better in every way.")


def test_a_cancelled_edit_is_not_sent_and_comes_back_when_opened_again(desk):
    page = desk()
    page.keyboard.press("e")
    editor(page).fill("Half an idea.")
    page.locator(".answer-a .edit > summary").click()
    expect(page.locator(".answer-a .answer-text")).to_be_visible()
    page.keyboard.press("e")
    expect(editor(page)).to_have_value("Half an idea.")
    page.locator(".answer-a .edit > summary").click()
    page.locator("h1").click()
    page.keyboard.press("1")
    wait_for_next(page, 2)
    assert Judgment.objects.get().edited is None


def test_an_edit_of_one_answer_is_never_kept_for_the_other(desk, browse):
    browse.expected.append("422")
    page = desk()
    page.keyboard.press("e")
    editor(page).fill("My better A.")
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    expect(
        page.get_by_role("alert").filter(has_text="improved answer A")
    ).to_be_visible()
    expect(editor(page)).to_have_value("My better A.")
    assert verdicts() == []
    page.keyboard.press("1")
    wait_for_next(page, 2)
    assert Judgment.objects.get().edited.text == "My better A."


def test_undo_brings_the_edit_back_into_its_editor(desk):
    page = desk()
    page.keyboard.press("e")
    editor(page).fill("Better!")
    page.keyboard.press("Control+Enter")
    wait_for_next(page, 2)
    page.keyboard.press("u")
    wait_for_next(page, 1)
    expect(editor(page)).to_have_value("Better!")
    expect(page.locator(".diff:visible ins")).to_have_text("Better!")


def test_without_javascript_an_answer_can_be_improved_too(desk):
    page = desk(javascript=False)
    page.locator(".answer-b .edit > summary").click()
    page.get_by_label("Answer B, improved").fill("By\nhand.")
    page.get_by_role("button", name="B is better").click()
    wait_for_next(page, 2)
    assert Judgment.objects.get().edited.text == "By\nhand."


def test_the_diff_in_the_browser_is_the_diff_of_the_server(desk):
    page = desk()
    pairs = [
        ("The quick brown fox jumps", "The slow red fox leaps high"),
        ("水开后煮六分钟，然后放凉。", "水开后再煮八分钟，放凉。"),
        ("one\ntwo\n\nthree", "one\ntwo and a half\n\nthree\n"),
        ("हिन्दी में लिखो", "हिन्दी में पढ़ो"),
        ("naïve café", "naive café"),
        ("สวัสดีครับ", "สวัสดีค่ะ"),
        ("don't stop", "do not stop 👍🏽"),
        ("", "all new"),
        ("  spaces  ", " spaces"),
    ]
    for one, other in pairs:
        there = page.evaluate("([one, other]) => wordDiff(one, other)", [one, other])
        assert [tuple(part) for part in there] == word_diff(one, other), (one, other)


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


# --- Own keys, pace ------------------------------------------------------------------------
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


# --- Nothing typed is lost ------------------------------------------------------------------
def fill_everything(page: Page) -> str:
    """An edit of A, strength, a reason, a criterion, a comment; the edit's text."""
    page.keyboard.press("8")
    page.keyboard.press("3")
    page.keyboard.press("k")
    page.keyboard.press("1")
    page.keyboard.press("Escape")
    page.keyboard.press("e")
    editor(page).fill("Improved\nby hand.")
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    page.keyboard.type("because 1 2 b")
    page.keyboard.press("Escape")
    return "Improved\nby hand."


def expect_everything(page: Page) -> None:
    expect(editor(page)).to_have_value("Improved\nby hand.")
    expect(page.get_by_label("Comment (optional)")).to_have_value("because 1 2 b")
    expect(page.get_by_role("radio", name="clearly")).to_be_checked()
    expect(page.get_by_role("checkbox", name="correct")).to_be_checked()
    helpful = page.get_by_role("radiogroup", name="helpful")
    expect(helpful.get_by_role("radio", name="A is better")).to_be_checked()


def assert_everything_is_stored() -> None:
    judgment = Judgment.objects.get()
    assert (judgment.verdict, judgment.strength) == ("first", 2)
    assert (judgment.reasons, judgment.comment) == (["correct"], "because 1 2 b")
    assert judgment.criteria == {"helpful": judgment.lease.first_id}
    assert judgment.edited.text == "Improved\nby hand."


def test_everything_survives_a_reload(desk):
    page = desk(settings=ASKS_ALL)
    fill_everything(page)
    page.reload()
    expect_everything(page)
    page.keyboard.press("1")
    wait_for_next(page, 2)
    assert_everything_is_stored()
    assert page.evaluate(KEPT) == []


def test_everything_survives_a_lost_network_and_is_sent_once(desk, browse):
    browse.expected += ["ERR_INTERNET_DISCONNECTED", "htmx:"]
    page = desk(settings=ASKS_ALL)
    fill_everything(page)
    page.context.set_offline(True)
    page.keyboard.press("1")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Your pick is kept on this device")
    page.context.set_offline(False)
    wait_for_next(page, 2)
    expect(page.locator("#live")).to_contain_text("kept on this device has been sent")
    assert_everything_is_stored()
    assert page.evaluate(KEPT) == []


def test_everything_survives_an_ended_session(desk, annotator):
    page = desk(settings=ASKS_ALL)
    annotator.set_password("let me in")
    annotator.save()
    fill_everything(page)
    Session.objects.all().delete()
    page.keyboard.press("1")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("You have been signed out")
    expect_everything(page)
    alert.get_by_role("link", name="Sign in again").click()
    page.get_by_label("Username").fill("alice")
    page.get_by_label("Password").fill("let me in")
    page.get_by_role("button", name="Sign in").click()
    wait_for_next(page, 2)
    assert_everything_is_stored()


def take_away(project, lease: Lease) -> None:
    """The lease's time runs out, and somebody else takes the pair."""
    past = timezone.now() - timedelta(minutes=1)
    Lease.objects.filter(pk=lease.pk).update(expires_at=past)
    Slot.objects.filter(lease=lease).update(expires_at=past)
    taken = take_lease(project, make_user("bob", project=project))
    assert taken.comparison_id == lease.comparison_id


def test_too_late_gives_edit_and_comment_back(desk, browse, project):
    browse.expected.append("410")
    page = desk(settings=ASKS_ALL)
    fill_everything(page)
    take_away(project, Lease.objects.get())
    page.keyboard.press("1")
    expect(page.get_by_role("heading", name="This one is closed")).to_be_visible()
    expect(page.get_by_label("What you typed")).to_have_value("because 1 2 b")
    expect(page.get_by_label("The answer as you improved it")).to_have_value(
        "Improved\nby hand."
    )
    left = page.get_by_label("This is what you wrote")
    expect(left).to_be_hidden()
    page.get_by_role("link", name="Go on to the next pair").click()
    wait_for_next(page, 2)
    expect(left).to_have_value("Improved\nby hand.\n\nbecause 1 2 b")
    assert verdicts() == []


def test_what_was_written_for_a_pair_that_went_away_is_given_back_after_a_reload(
    desk, project
):
    page = desk(settings=ASKS_ALL)
    fill_everything(page)
    take_away(project, Lease.objects.get())
    page.reload()
    wait_for_next(page, 2)
    left = page.get_by_label("This is what you wrote")
    expect(left).to_have_value("Improved\nby hand.\n\nbecause 1 2 b")
    page.get_by_role("button", name="Put it away").click()
    expect(left).to_be_hidden()
    page.reload()
    wait_for_next(page, 2)
    expect(left).to_be_hidden()


# --- Nothing tells the answers apart ----------------------------------------------------------
def test_a_judgment_and_its_next_pair_are_one_request_and_neither_answer_has_its_own(
    desk,
):
    """Two requests could arrive in an order, or after a time, that says which is which."""
    page = desk()
    asked = []
    page.on("request", lambda request: asked.append((request.method, request.url)))
    page.keyboard.press("1")
    wait_for_next(page, 2)
    page.keyboard.press("e")
    editor(page).fill("Better.")
    expect(page.locator(".diff:visible ins")).to_be_visible()
    page.keyboard.press("Control+Enter")
    wait_for_next(page, 3)
    # The tab's icon may come late; files that are the same for everybody tell nothing,
    # nor does a pair that comes ahead: both its answers in one.
    asked = [
        (method, url)
        for method, url in asked
        if "/static/" not in url and not url.endswith("/ahead/")
    ]
    assert [method for method, _url in asked] == ["POST", "POST"]
    assert all(url.endswith("/judge/") for _method, url in asked)


# --- The whole of it ---------------------------------------------------------------------------
def test_a_day_by_keyboard_alone(desk):
    """Judge, grade, improve, comment, flag, skip, undo, change: never a mouse."""
    page = desk(pairs=6, settings=ASKS_ALL)
    for key in "71":
        page.keyboard.press(key)
    wait_for_next(page, 2)
    page.keyboard.press("r")
    page.keyboard.press("Control+A")
    page.keyboard.type("Rewritten by keyboard.")
    page.keyboard.press("Control+Enter")
    wait_for_next(page, 3)
    page.keyboard.press("c")
    page.keyboard.type("both are fine")
    page.keyboard.press("Escape")
    page.keyboard.press("0")
    wait_for_next(page, 4)
    page.keyboard.press("f")
    page.keyboard.press("1")
    wait_for_next(page, 5)
    page.keyboard.press("s")
    wait_for_next(page, 6)
    page.keyboard.press("u")
    wait_for_next(page, 3)
    page.keyboard.press("b")
    wait_for_next(page, 6)
    assert verdicts() == ["first", "second", "both_bad"]
    assert (
        Judgment.objects.get(verdict="second").edited.text == "Rewritten by keyboard."
    )
    assert Judgment.objects.get(verdict="both_bad").comment == "both are fine"
    assert set(Lease.objects.values_list("outcome", flat=True)) >= {"skipped", "judged"}


def test_with_everything_asked_the_buttons_stay_on_every_screen(desk):
    page = desk(pairs=1, settings=ASKS_ALL)
    Completion.objects.update(html="<p>word</p>" * 400)
    # A desk, a small phone, a laptop at 200 % zoom, a phone held sideways.
    for width, height in ((1440, 900), (390, 700), (720, 450), (844, 390)):
        page.set_viewport_size({"width": width, "height": height})
        page.reload()
        for name in ("A is better", "B is better", "Tie", "Both bad", "Skip"):
            button = page.get_by_role("button", name=name, exact=False).last
            expect(button).to_be_in_viewport(ratio=1)
        over = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(over) <= 0, (width, height)


def test_on_a_phone_by_touch(browse, project, annotator, desk):
    page = desk(settings=ASKS_ALL, size=(390, 700))
    page.locator(".chip", has_text="clearly").click()
    page.get_by_role("button", name="B is better").click()
    wait_for_next(page, 2)
    page.locator(".answer-a .edit > summary").click()
    editor(page).fill("Shorter.")
    page.get_by_role("button", name="A is better").click()
    wait_for_next(page, 3)
    first, second = Judgment.objects.order_by("created_at")
    assert (first.verdict, first.strength) == ("second", 2)
    assert second.edited.text == "Shorter."


def test_axe_finds_nothing_with_everything_open(desk, project, annotator):
    make_judgment(project=project, annotator=annotator, verdict="tie")
    page = desk(settings=ASKS_ALL)
    page.keyboard.press("g")
    page.keyboard.press("l")
    expect(page.locator("#last-ten").get_by_role("listitem")).to_have_count(1)
    page.keyboard.press("k")
    page.keyboard.press("1")
    page.keyboard.press("e")
    editor(page).fill("Changed a little.")
    expect(page.locator(".diff:visible ins")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for rule in Axe().run(page).response["violations"]:
            found += [(rule["id"], node["html"][:200]) for node in rule["nodes"]]
    assert not found, json.dumps(found, indent=1)


def test_swaps_and_drawers_shift_nothing_by_themselves(desk):
    page = desk(settings=ASKS_ALL)
    page.keyboard.press("g")
    page.evaluate(
        """() => { window.shifts = 0; new PerformanceObserver((list) => {
             for (const e of list.getEntries()) if (!e.hadRecentInput) window.shifts += e.value;
           }).observe({ type: "layout-shift", buffered: false }); }"""
    )
    page.keyboard.press("1")
    wait_for_next(page, 2)
    assert page.evaluate("window.shifts") < 0.01
