"""Judging in a real browser: keys, undo, no JavaScript, a lost network, a lost session."""

import pytest
from django.contrib.sessions.models import Session
from playwright.sync_api import expect

from annotation.models import Completion, Judgment, Lease
from tests.browser.conftest import NARROW
from tests.browser.desk import KEPT, question, verdicts, wait_for_next
from tests.factories import make_comparison, make_prompt


def test_four_keys_judge_and_each_brings_the_next_pair(desk):
    page = desk(pairs=4)
    for number, key in enumerate("120b", start=1):
        expect(question(page)).to_contain_text(f"Question number {number}?")
        page.keyboard.press(key)
    expect(
        page.get_by_role("heading", name="Waiting for the next pair")
    ).to_be_visible()
    assert verdicts() == ["first", "second", "tie", "both_bad"]


def test_what_is_shown_as_a_is_what_wins_when_a_is_picked(desk):
    page = desk(pairs=1)
    shown = page.locator(".answer-a .answer-text").inner_text()
    page.keyboard.press("1")
    expect(page.locator(".done")).to_have_text("✓ Saved: A is better")
    assert Judgment.objects.get().winner.text == shown


def test_u_undoes_the_last_judgment_and_brings_its_pair_back(desk):
    page = desk()
    page.keyboard.press("1")
    expect(question(page)).to_contain_text("Question number 2?")
    page.keyboard.press("u")
    expect(question(page)).to_contain_text("Question number 1?")
    expect(page.locator(".done")).to_contain_text("Undone")
    assert verdicts() == []
    page.keyboard.press("2")
    expect(question(page)).to_contain_text("Question number 2?")
    assert verdicts() == ["second"]


def test_s_skips_and_the_pair_does_not_come_back(desk):
    page = desk(pairs=1)
    page.keyboard.press("s")
    expect(
        page.get_by_role("heading", name="Waiting for the next pair")
    ).to_be_visible()
    assert verdicts() == []
    assert Lease.objects.get().outcome == "skipped"


def test_question_mark_opens_the_help_and_keys_rest_meanwhile(desk):
    page = desk()
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("1")
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    expect(question(page)).to_contain_text("Question number 1?")
    assert verdicts() == []


def test_keys_are_dead_in_a_text_box_and_with_ctrl_alt_or_meta(desk):
    page = desk()
    for chord in ("Control+1", "Alt+1", "Meta+1", "Control+b"):
        page.keyboard.press(chord)
    page.locator(".comment > summary").click()
    page.get_by_label("Comment (optional)").fill("")
    page.keyboard.type("1 2 0 b s u ?")
    expect(page.get_by_label("Comment (optional)")).to_have_value("1 2 0 b s u ?")
    page.keyboard.press("Enter")
    expect(question(page)).to_contain_text("Question number 1?")
    assert verdicts() == []


def test_a_key_held_down_and_a_double_click_judge_once(desk):
    page = desk()
    page.keyboard.down("1")
    page.keyboard.down("1")
    page.keyboard.up("1")
    expect(question(page)).to_contain_text("Question number 2?")
    page.get_by_role("button", name="Tie").dblclick()
    expect(question(page)).to_contain_text("Question number 3?")
    assert verdicts() == ["first", "tie"]


def test_after_a_judgment_the_focus_is_at_the_answers_and_it_is_announced(desk):
    page = desk()
    page.keyboard.press("1")
    expect(question(page)).to_contain_text("Question number 2?")
    expect(page.locator("#answer-a")).to_be_focused()
    expect(page.locator("#live")).to_contain_text("Saved: A is better")


def test_it_works_by_tab_and_enter_alone(desk):
    page = desk()
    page.get_by_role("button", name="Both bad").focus()
    page.keyboard.press("Enter")
    expect(question(page)).to_contain_text("Question number 2?")
    assert verdicts() == ["both_bad"]


def test_without_javascript_one_can_judge_comment_and_undo(desk):
    page = desk(javascript=False)
    page.locator(".comment > summary").click()
    page.get_by_label("Comment (optional)").fill("by hand")
    page.get_by_role("button", name="B is better").click()
    expect(question(page)).to_contain_text("Question number 2?")
    assert Judgment.objects.get().comment == "by hand"
    page.get_by_role("button", name="Undo").click()
    expect(question(page)).to_contain_text("Question number 1?")
    assert verdicts() == []


def test_a_pick_made_while_the_network_is_cut_is_kept_and_sent_once_it_is_back(
    desk, browse
):
    browse.expected += ["ERR_INTERNET_DISCONNECTED", "htmx:"]
    page = desk()
    page.locator(".comment > summary").click()
    page.get_by_label("Comment (optional)").fill("typed offline")
    page.locator("h1").click()
    page.context.set_offline(True)
    page.keyboard.press("1")
    expect(page.get_by_role("alert")).to_contain_text(
        "Your pick is kept on this device"
    )
    expect(page.get_by_label("Comment (optional)")).to_have_value("typed offline")
    assert verdicts() == []
    page.context.set_offline(False)
    expect(question(page)).to_contain_text("Question number 2?")
    expect(page.get_by_role("alert")).to_be_hidden()
    judgment = Judgment.objects.get()
    assert (judgment.verdict, judgment.comment) == ("first", "typed offline")
    assert page.evaluate(KEPT) == []


def test_an_answer_that_got_lost_on_the_way_back_makes_no_second_judgment(desk, browse):
    """The server keeps the judgment, the browser never hears of it and sends it again."""
    browse.expected += ["ERR_FAILED", "htmx:"]
    page = desk()

    def lose_the_answer(route):
        route.fetch()
        route.abort()

    page.route("**/judge/", lose_the_answer, times=1)
    page.keyboard.press("2")
    expect(page.get_by_role("alert")).to_contain_text(
        "Your pick is kept on this device"
    )
    assert verdicts() == ["second"]
    page.evaluate("window.dispatchEvent(new Event('online'))")
    expect(question(page)).to_contain_text("Question number 2?")
    assert verdicts() == ["second"]


def test_a_pick_survives_closing_the_page_while_offline(desk, browse):
    browse.expected += ["ERR_INTERNET_DISCONNECTED", "htmx:"]
    page = desk()
    page.context.set_offline(True)
    page.keyboard.press("0")
    expect(page.get_by_role("alert")).to_contain_text(
        "Your pick is kept on this device"
    )
    page.context.set_offline(False)
    page.evaluate("localStorage.length")  # the pick is there before the page goes
    page.reload()
    expect(question(page)).to_contain_text("Question number 2?")
    assert verdicts() == ["tie"]


def test_what_was_typed_survives_a_reload(desk):
    page = desk()
    page.locator(".comment > summary").click()
    page.get_by_label("Comment (optional)").fill("half a thought")
    page.reload()
    expect(page.get_by_label("Comment (optional)")).to_have_value("half a thought")


def test_an_ended_session_is_said_and_the_pick_is_sent_after_signing_in(
    desk, annotator
):
    page = desk()
    annotator.set_password("let me in")
    annotator.save()
    Session.objects.all().delete()
    page.locator(".comment > summary").click()
    page.get_by_label("Comment (optional)").fill("do not lose me")
    page.get_by_role("button", name="A is better").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("You have been signed out")
    expect(page.get_by_label("Comment (optional)")).to_have_value("do not lose me")
    alert.get_by_role("link", name="Sign in again").click()
    page.get_by_label("Username").fill("alice")
    page.get_by_label("Password").fill("let me in")
    page.get_by_role("button", name="Sign in").click()
    expect(question(page)).to_contain_text("Question number 2?")
    assert Judgment.objects.get().comment == "do not lose me"


def test_a_pair_judged_in_another_tab_is_explained_and_the_text_given_back(
    desk, browse
):
    browse.expected.append("409")
    page = desk()
    other = page.context.new_page()
    other.goto(page.url)
    other.keyboard.press("1")
    expect(question(other)).to_contain_text("Question number 2?")
    page.locator(".comment > summary").click()
    page.get_by_label("Comment (optional)").fill("second thoughts")
    page.get_by_role("button", name="Tie").click()
    expect(page.get_by_role("heading", name="This one is closed")).to_be_visible()
    expect(page.get_by_label("What you typed")).to_have_value("second thoughts")
    assert verdicts() == ["first"]
    page.get_by_role("link", name="Go on to the next pair").click()
    expect(question(page)).to_contain_text("Question number 2?")


def test_a_waiting_desk_shows_the_pair_as_soon_as_it_is_there(desk, project):
    page = desk(pairs=0)
    expect(page.get_by_text("No prompts have been imported yet")).to_be_visible()
    make_comparison(prompt=make_prompt("Here at last?", project=project))
    expect(question(page)).to_contain_text("Here at last?")
    expect(page.locator("#live")).to_contain_text("A comparison is ready")


def test_the_decision_bar_stays_on_screen_however_long_the_answers(desk):
    page = desk(pairs=1)
    Completion.objects.update(html="<p>word</p>" * 400)
    # Wide, a phone, and a laptop at 200 % zoom.
    for width, height in ((1440, 900), NARROW, (720, 450)):
        page.set_viewport_size({"width": width, "height": height})
        page.reload()
        for name in ("A is better", "B is better", "Tie", "Both bad", "Skip"):
            expect(page.get_by_role("button", name=name)).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("width", [360, 390, 640])
def test_on_a_phone_the_verdicts_stand_still_from_pair_to_pair(desk, width):
    """What was saved took none, two or three lines beside them: a thumb that had learned
    where “Tie” is pressed “A is better”."""
    page = desk(pairs=5, size=(width, 844))
    top = "document.querySelector('.verdict').getBoundingClientRect().top"
    tops = [page.evaluate(top)]
    for number, key in enumerate(("1", "0", "b", "s"), start=2):
        page.keyboard.press(key)
        wait_for_next(page, number)
        expect(page.locator(".pair[aria-busy]")).to_have_count(0)
        tops.append(page.evaluate(top))
    assert len(set(tops)) == 1, tops
    words = page.locator(".last .done")
    assert words.evaluate("one => one.scrollWidth <= one.clientWidth")


def test_at_200_per_cent_zoom_each_pair_begins_at_its_beginning(desk):
    """There the page itself scrolls: the next pair came up in the middle of its answers."""
    page = desk(size=(640, 400))
    Completion.objects.update(html="<p>word</p>" * 100)
    page.reload()
    page.evaluate("scrollTo(0, 1500)")
    page.keyboard.press("1")
    wait_for_next(page, 2)
    expect(page.locator(".prompt")).to_be_in_viewport()
    # And what Tab leads to does not lie behind the verdicts.
    for _control in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate(
            """() => {
              const one = document.activeElement, box = one.getBoundingClientRect();
              const bar = document.querySelector(".decision");
              return bar.contains(one) || box.top < bar.getBoundingClientRect().top - 8;
            }"""
        )


def test_swapping_the_pair_shifts_nothing_by_itself(desk):
    page = desk()
    page.evaluate(
        """() => { window.shifts = 0; new PerformanceObserver((list) => {
             for (const e of list.getEntries()) if (!e.hadRecentInput) window.shifts += e.value;
           }).observe({ type: "layout-shift", buffered: true }); }"""
    )
    page.keyboard.press("1")
    expect(question(page)).to_contain_text("Question number 2?")
    assert page.evaluate("window.shifts") < 0.01


def test_a_text_box_somebody_has_resized_brings_no_inline_style_to_the_next_pair(
    desk,
):
    """Dragging its corner sets a style, which the CSP forbids htmx to copy."""
    page = desk()
    page.evaluate("document.getElementById('comment').style.height = '9rem'")
    page.keyboard.press("1")
    expect(question(page)).to_contain_text("Question number 2?")
    assert page.locator("[style]").count() == 0


def test_guidelines_open_in_a_drawer(desk):
    page = desk()
    page.get_by_role("button", name="Guidelines").click()
    expect(page.get_by_role("dialog")).to_contain_text("Be kind.")
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_the_page_weighs_little_and_asks_nobody_else(desk, live_server):
    """Design §7: at most 150 kB over the wire; here even uncompressed. Each file once:
    Chromium may list the icon again when it takes it for the tab."""
    page = desk()
    entries = page.evaluate(
        """[...performance.getEntriesByType("navigation"),
            ...performance.getEntriesByType("resource")]
           .map((entry) => [entry.name, entry.encodedBodySize])"""
    )
    assert all(url.startswith(live_server.url) for url, _size in entries)
    sizes = dict(entries)
    assert sum(sizes.values()) < 150_000
