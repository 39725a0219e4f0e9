"""The annotator's whole desk in a real browser: a day at it, on every screen, by key and touch."""

import json

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from annotation.models import Completion, Judgment, Lease
from tests.browser.desk import (
    ASKS_ALL,
    editor,
    verdicts,
    wait_for_next,
)
from tests.factories import (
    make_judgment,
)


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
