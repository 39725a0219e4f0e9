"""The next pair held ahead: on the screen before the pick is answered, and what becomes
of it when the answer is another one, a refusal, or never comes.
"""

import time

import pytest
from django.contrib.sessions.models import Session
from django.urls import reverse
from playwright.sync_api import Page, Route, expect

from annotation.leasing import take_lease
from annotation.models import Comparison, Judgment, Lease, Slot
from tests.browser.conftest import NARROW, wait_until
from tests.browser.desk import KEPT, verdicts
from tests.factories import (
    make_comparison,
    make_gold,
    make_project,
    make_prompt,
    make_user,
)

HOLDS = "() => Object.keys(localStorage).some((name) => name.endsWith(':ahead'))"
ANSWERED = "() => !document.querySelector('#pair[data-busy]')"


@pytest.fixture
def project(transactional_db):
    return make_project(slug="kitchen")


@pytest.fixture
def annotator(project):
    return make_user("alice", project=project)


@pytest.fixture
def desk(browse, project, annotator):
    """The compare page with pairs enough, once it holds the second of them."""

    def open_page(settings: dict | None = None, **options) -> Page:
        project.settings = settings or {}
        project.save()
        for number in range(1, 11):
            prompt = make_prompt(f"Question number {number}?", project=project)
            make_comparison(prompt=prompt)
        page = browse(annotator, reverse("compare", args=["kitchen"]), **options)
        wait_until(page, HOLDS)
        return page

    return open_page


def hold_back(page: Page, path: str = "**/judge/") -> list[Route]:
    """From now on such requests stay in the list, until they are let go or cut."""
    routes: list[Route] = []
    page.route(path, lambda route: routes.append(route))
    return routes


def on_its_way(page: Page, routes: list[Route]) -> Route:
    """The request held back; the pair may be on the screen before it has left."""
    deadline = time.monotonic() + 60
    while not routes:
        assert time.monotonic() < deadline, "no such request was made"
        page.wait_for_timeout(20)
    return routes.pop()


def on_screen(page: Page, number: int) -> None:
    expect(question(page)).to_contain_text(f"Question number {number}?")


def question(page: Page):
    """Of the pair that is shown; the one that leaves is still there, unseen."""
    return page.locator("#pair .question")


def comment(page: Page):
    return page.locator("#pair").get_by_label("Comment (optional)")


def test_the_next_pair_is_on_the_screen_before_the_pick_is_answered(desk):
    page = desk()
    routes = hold_back(page)
    page.keyboard.press("1")
    on_screen(page, 2)
    expect(page.locator("#answer-a").first).to_be_focused()
    assert verdicts() == []
    assert page.locator("#live").inner_text() == ""
    on_its_way(page, routes).continue_()
    expect(page.locator("#live")).to_have_text(
        "Saved: A is better. A comparison is ready."
    )
    on_screen(page, 2)
    expect(page.locator(".done")).to_have_text("✓ Saved: A is better")
    expect(page.locator(".today")).to_contain_text("1 today")
    assert page.locator(".pair").count() == 1
    assert verdicts() == ["first"]
    assert page.evaluate(KEPT) == []
    page.keyboard.press("u")
    on_screen(page, 1)
    assert verdicts() == []


def test_pair_after_pair_comes_ahead_and_none_is_left_out_or_shown_twice(desk):
    page = desk()
    for number, key in enumerate("12b0", start=1):
        on_screen(page, number)
        wait_until(page, HOLDS)
        page.keyboard.press(key)
        on_screen(page, number + 1)
        wait_until(page, ANSWERED)
    assert verdicts() == ["first", "second", "both_bad", "tie"]
    judged = Judgment.objects.order_by("created_at").values_list(
        "comparison", flat=True
    )
    assert list(judged) == list(
        Comparison.objects.order_by("pk").values_list("pk", flat=True)[:4]
    )


def test_nothing_judges_the_new_pair_before_the_pick_is_answered(desk):
    page = desk()
    routes = hold_back(page)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.keyboard.press("1")
    on_screen(page, 2)
    for key in "2su0":
        page.keyboard.press(key)
    page.locator("#pair").get_by_role("button", name="Tie").click()
    on_screen(page, 2)
    assert len([url for url in asked if not url.endswith("/ahead/")]) == 1
    on_its_way(page, routes).continue_()
    wait_until(page, ANSWERED)
    wait_until(page, HOLDS)
    page.unroute("**/judge/")
    page.keyboard.press("2")
    on_screen(page, 3)
    wait_until(page, ANSWERED)
    assert verdicts() == ["first", "second"]


def test_a_change_from_the_last_ten_waits_for_the_answer_too(desk):
    page = desk()
    page.keyboard.press("1")
    on_screen(page, 2)
    wait_until(page, ANSWERED)
    wait_until(page, HOLDS)
    page.keyboard.press("l")
    expect(
        page.locator("#last-ten").get_by_role("button", name="Change")
    ).to_be_visible()
    routes = hold_back(page)
    page.keyboard.press("2")
    on_screen(page, 3)
    page.locator("#last-ten").get_by_role("button", name="Change").click()
    on_its_way(page, routes).continue_()
    wait_until(page, ANSWERED)
    on_screen(page, 3)
    assert verdicts() == ["first", "second"]
    # The drawer has the new one by now.
    expect(page.locator("#last-ten").get_by_role("listitem")).to_have_count(2)


def test_what_is_typed_meanwhile_stays_as_it_is_caret_and_all(desk):
    page = desk(settings={"ask_strength": True})
    routes = hold_back(page)
    page.keyboard.press("1")
    on_screen(page, 2)
    page.keyboard.press("8")
    page.keyboard.press("c")
    page.keyboard.type("half a")
    page.keyboard.press("ArrowLeft")
    on_its_way(page, routes).continue_()
    wait_until(page, ANSWERED)
    expect(comment(page)).to_be_focused()
    page.keyboard.type("|")
    expect(comment(page)).to_have_value("half |a")
    wait_until(page, HOLDS)
    page.unroute("**/judge/")
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    on_screen(page, 3)
    wait_until(page, ANSWERED)
    second = Judgment.objects.get(verdict="second")
    assert (second.comment, second.strength) == ("half |a", 2)


def test_a_network_cut_on_the_way_gives_the_pair_back_and_the_pick_is_sent_once(
    desk, browse
):
    browse.expected += ["ERR_INTERNET_DISCONNECTED", "ERR_FAILED", "htmx:"]
    page = desk()
    page.keyboard.press("c")
    page.keyboard.type("typed before")
    page.keyboard.press("Escape")
    routes = hold_back(page)
    page.keyboard.press("1")
    on_screen(page, 2)
    route = on_its_way(page, routes)
    page.context.set_offline(True)
    route.abort()
    page.unroute("**/judge/")
    on_screen(page, 1)
    expect(page.get_by_role("alert")).to_contain_text(
        "Your pick is kept on this device"
    )
    expect(comment(page)).to_have_value("typed before")
    expect(page.locator("#answer-a")).to_be_focused()
    assert page.locator(".pair").count() == 1
    assert verdicts() == []
    page.context.set_offline(False)
    on_screen(page, 2)
    wait_until(page, ANSWERED)
    judgment = Judgment.objects.get()
    assert (judgment.verdict, judgment.comment) == ("first", "typed before")
    assert page.evaluate(KEPT) == []
    wait_until(page, HOLDS)
    page.keyboard.press("2")
    on_screen(page, 3)
    wait_until(page, ANSWERED)
    assert verdicts() == ["first", "second"]


def test_a_network_that_flickers_meanwhile_sends_the_pick_no_second_time(desk):
    page = desk()
    routes = hold_back(page)
    page.keyboard.press("1")
    on_screen(page, 2)
    page.evaluate("window.dispatchEvent(new Event('online'))")
    page.wait_for_timeout(300)
    assert len(routes) == 1
    on_its_way(page, routes).continue_()
    wait_until(page, ANSWERED)
    on_screen(page, 2)
    assert verdicts() == ["first"]


def test_an_answer_lost_after_it_was_stored_brings_the_same_next_pair_with_what_was_typed(
    desk, browse
):
    browse.expected += ["ERR_FAILED", "htmx:"]
    page = desk()
    routes = hold_back(page)
    page.keyboard.press("1")
    on_screen(page, 2)
    page.keyboard.press("c")
    page.keyboard.type("about the second")
    route = on_its_way(page, routes)
    route.fetch()
    route.abort()
    page.unroute("**/judge/")
    on_screen(page, 1)
    expect(page.locator("#left-behind")).to_be_hidden()
    assert verdicts() == ["first"]
    page.evaluate("window.dispatchEvent(new Event('online'))")
    on_screen(page, 2)
    expect(comment(page)).to_have_value("about the second")
    assert verdicts() == ["first"]
    assert Lease.objects.filter(outcome="").count() == 1


def test_who_was_writing_when_the_pair_went_does_not_judge_the_one_that_came_back(
    desk, browse
):
    browse.expected += ["422"]
    page = desk()
    routes = hold_back(page, "**/skip/")
    page.keyboard.press("f")
    page.keyboard.press("4")  # something else, which needs words
    on_screen(page, 2)
    page.keyboard.press("c")
    page.keyboard.type("one")
    on_its_way(page, routes).continue_()
    on_screen(page, 1)
    page.keyboard.type(" 1 2 b 0")
    expect(page.locator("#pair").get_by_role("alert")).to_contain_text(
        "Say in a few words"
    )
    on_screen(page, 1)
    assert verdicts() == []


def test_a_refused_act_gives_its_pair_back_with_all_that_was_typed(desk, browse):
    browse.expected += ["422"]
    page = desk()
    routes = hold_back(page, "**/skip/")
    page.keyboard.press("c")
    page.keyboard.type("do not lose me")
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    page.keyboard.press("4")
    on_screen(page, 2)
    on_its_way(page, routes).continue_()
    on_screen(page, 1)
    expect(page.locator("#pair").get_by_role("alert")).to_contain_text(
        "Say in a few words"
    )
    expect(comment(page)).to_have_value("do not lose me")
    page.unroute("**/skip/")
    page.keyboard.press("f")
    page.get_by_label("In a few words").fill("it is a joke")
    page.get_by_role("button", name="something else").click()
    on_screen(page, 2)
    wait_until(page, ANSWERED)
    skipped = Lease.objects.get(outcome="skipped")
    assert skipped.skip_reason == "it is a joke\n\ndo not lose me"


def test_a_skip_brings_the_held_pair_as_well(desk):
    page = desk()
    routes = hold_back(page, "**/skip/")
    page.keyboard.press("s")
    on_screen(page, 2)
    on_its_way(page, routes).continue_()
    expect(page.locator(".done")).to_have_text("✓ Skipped")
    on_screen(page, 2)
    assert Lease.objects.filter(outcome="").count() == 1


def test_a_reservation_lost_meanwhile_gives_way_to_the_pair_that_is_theirs(
    desk, project
):
    page = desk()
    routes = hold_back(page)
    page.keyboard.press("1")
    on_screen(page, 2)
    page.keyboard.press("c")
    page.keyboard.type("written for nobody")
    ahead = Lease.objects.get(outcome="ahead")
    Slot.objects.filter(lease=ahead).update(expires_at="2020-01-01T00:00Z")
    other = take_lease(project, make_user(project=project))
    assert other.comparison_id == ahead.comparison_id
    on_its_way(page, routes).continue_()
    on_screen(page, 3)
    wait_until(page, ANSWERED)
    assert page.locator(".pair").count() == 1
    expect(page.locator("#left-text")).to_have_value("written for nobody")
    assert verdicts() == ["first"]


def test_a_probe_comes_ahead_like_any_other_pair_and_never_instead_of_one(
    desk, project
):
    make_gold(project=project, prompt=make_prompt("Known answer?", project=project))
    page = desk(settings={"gold_rate": 1.0})
    routes = hold_back(page)
    for key, shown in (("1", "Question number 2?"), ("2", "Known answer?")):
        wait_until(page, HOLDS)
        page.keyboard.press(key)
        expect(question(page)).to_contain_text(shown)
        on_its_way(page, routes).continue_()
        wait_until(page, ANSWERED)
        expect(question(page)).to_contain_text(shown)
    assert verdicts() == ["first", "second"]


def test_an_ended_session_gives_the_pair_back_and_says_so(desk):
    page = desk()
    routes = hold_back(page)
    page.keyboard.press("c")
    page.keyboard.type("do not lose me")
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    on_screen(page, 2)
    Session.objects.all().delete()
    on_its_way(page, routes).continue_()
    expect(page.get_by_role("alert")).to_contain_text("You have been signed out")
    on_screen(page, 1)
    expect(comment(page)).to_have_value("do not lose me")
    assert verdicts() == []


def test_a_pair_judged_in_another_tab_is_explained_though_the_next_was_on_the_screen(
    desk, browse
):
    browse.expected.append("409")
    page = desk()
    other = page.context.new_page()
    other.goto(page.url)
    other.keyboard.press("2")
    expect(other.locator(".done")).to_have_text("✓ Saved: B is better")
    routes = hold_back(page)
    page.keyboard.press("c")
    page.keyboard.type("second thoughts")
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    on_screen(page, 2)
    on_its_way(page, routes).continue_()
    expect(page.get_by_role("heading", name="This one is closed")).to_be_visible()
    expect(page.get_by_label("What you typed")).to_have_value("second thoughts")
    assert verdicts() == ["second"]


def test_a_reload_before_the_answer_shows_the_next_pair_and_what_was_typed_for_it(desk):
    page = desk()
    routes = hold_back(page)
    page.keyboard.press("1")
    on_screen(page, 2)
    page.keyboard.press("c")
    page.keyboard.type("for the second")
    on_its_way(page, routes)
    page.unroute("**/judge/")
    page.reload()
    on_screen(page, 2)
    wait_until(page, ANSWERED)
    expect(comment(page)).to_have_value("for the second")
    expect(page.locator("#left-behind")).to_be_hidden()
    assert verdicts() == ["first"]


def test_on_a_phone_by_touch_from_the_top_of_the_next_pair(desk):
    page = desk(size=NARROW, settings={"ask_strength": True})
    routes = hold_back(page)
    page.locator(".pair-text").evaluate("(box) => box.scrollTo(0, 40)")
    page.get_by_role("button", name="A is better").click()
    on_screen(page, 2)
    assert page.locator("#pair .pair-text").evaluate("(box) => box.scrollTop") == 0
    page.locator("#pair .chip", has_text="clearly").click()
    page.locator("#pair").get_by_role("button", name="B is better").click()
    on_its_way(page, routes).continue_()
    wait_until(page, ANSWERED)
    on_screen(page, 2)
    wait_until(page, HOLDS)
    page.unroute("**/judge/")
    page.get_by_role("button", name="B is better").click()
    on_screen(page, 3)
    wait_until(page, ANSWERED)
    first, second = Judgment.objects.order_by("created_at")
    assert (first.verdict, second.verdict, second.strength) == ("first", "second", 2)


def test_neither_the_switch_nor_its_answer_shifts_anything_by_itself(desk):
    page = desk()
    page.evaluate(
        """() => { window.shifts = 0; new PerformanceObserver((list) => {
             for (const e of list.getEntries()) if (!e.hadRecentInput) window.shifts += e.value;
           }).observe({ type: "layout-shift", buffered: false }); }"""
    )
    page.keyboard.press("1")
    on_screen(page, 2)
    wait_until(page, ANSWERED)
    wait_until(page, HOLDS)
    routes = hold_back(page)
    page.keyboard.press("2")
    on_screen(page, 3)
    # What is saved is the pick before: nothing is said of this one yet.
    expect(page.locator("#pair .done")).to_be_hidden()
    page.wait_for_timeout(600)  # what comes half a second after a key counts as a shift
    on_its_way(page, routes).continue_()
    wait_until(page, ANSWERED)
    assert page.evaluate("window.shifts") < 0.01
