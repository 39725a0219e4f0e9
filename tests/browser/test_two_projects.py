"""Who works in two projects: what is kept on the device stays with its project."""

import pytest
from django.urls import reverse
from playwright.sync_api import Page, expect

from annotation.models import Judgment, Lease
from tests.browser.conftest import wait_until
from tests.browser.desk import ASKS_ALL, KEPT, editor, question, verdicts, wait_for_next
from tests.factories import make_comparison, make_member, make_project, make_prompt

OLD_FORM = """() => { for (const name of Object.keys(localStorage)) {
  const old = name.replace(":kitchen:", ":");
  if (old === name) continue;
  localStorage.setItem(old, localStorage.getItem(name));
  localStorage.removeItem(name);
} }"""
"""Leaves what kitchen's page has kept as it was kept before projects had a place each."""


@pytest.fixture
def garden(annotator):
    project = make_project(slug="garden", settings=ASKS_ALL)
    make_member(project, annotator)
    for number in (1, 2, 3):
        prompt = make_prompt(f"Garden question {number}?", project=project)
        make_comparison(prompt=prompt)
    return project


def open_garden(page: Page) -> None:
    page.goto(page.url.replace("/kitchen/", "/garden/"))
    expect(question(page)).to_contain_text("Garden question 1?")


def pick_while_offline(page: Page, browse) -> None:
    browse.expected += ["ERR_FAILED", "htmx:"]
    page.route("**/judge/", lambda route: route.abort())
    page.keyboard.press("1")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Your pick is kept on this device")


def write(page: Page) -> None:
    page.keyboard.press("8")
    page.keyboard.press("e")
    editor(page).fill("A long improvement.")
    page.keyboard.press("Escape")


def expect_written(page: Page) -> None:
    wait_for_next(page, 1)
    expect(editor(page)).to_have_value("A long improvement.")
    expect(page.get_by_role("radio", name="clearly")).to_be_checked()


def test_a_pick_waits_for_its_own_projects_page(desk, browse, garden):
    page = desk()
    pick_while_offline(page, browse)
    home = page.url
    page.unroute("**/judge/")
    open_garden(page)
    page.wait_for_timeout(1000)  # Nothing is sent from here, nothing is swapped.
    expect(question(page)).to_contain_text("Garden question 1?")
    assert verdicts() == []
    with page.expect_response("**/judge/"):
        page.keyboard.press("2")
    expect(question(page)).to_contain_text("Garden question 2?")
    assert list(Judgment.objects.values_list("project__slug", "verdict")) == [
        ("garden", "second")
    ]
    page.goto(home)
    wait_for_next(page, 2)
    expect(page.locator("#live")).to_contain_text("kept on this device has been sent")
    assert verdicts() == ["second", "first"]
    assert page.evaluate(KEPT) == []


def test_what_is_written_in_one_project_is_nothing_left_behind_in_another(desk, garden):
    page = desk(settings=ASKS_ALL)
    write(page)
    home = page.url
    open_garden(page)
    expect(page.locator("#left-behind")).to_be_hidden()
    page.goto(home)
    expect_written(page)


def test_chips_alone_are_not_forgotten_by_another_projects_page(desk, garden):
    page = desk(settings=ASKS_ALL)
    page.keyboard.press("8")
    home = page.url
    open_garden(page)
    page.goto(home)
    wait_for_next(page, 1)
    expect(page.get_by_role("radio", name="clearly")).to_be_checked()


def test_a_project_may_have_the_name_of_what_is_kept(desk, browse, annotator):
    """Its short name begins its names, which must not be read as a person's own."""
    work = make_project(slug="work")
    make_member(work, annotator)
    for number in (1, 2, 3):
        prompt = make_prompt(f"Question number {number}?", project=work)
        make_comparison(prompt=prompt)
    page = browse(annotator, reverse("compare", args=["work"]))
    page.keyboard.press("1")
    wait_for_next(page, 2)
    page.keyboard.press("c")
    page.keyboard.type("for work")
    page.keyboard.press("Escape")
    since = "(name) => JSON.parse(localStorage[name] ?? '{}').since"
    own = f"tiebreak:{annotator.pk}:work"
    began = page.evaluate(since, own)
    assert began
    page.keyboard.press("2")
    wait_for_next(page, 3)
    assert page.evaluate(since, own) == began


def test_a_draft_of_the_old_form_comes_back_on_its_pair_and_is_put_away_nowhere_else(
    desk, garden
):
    page = desk(settings=ASKS_ALL)
    write(page)
    home = page.url
    page.evaluate(OLD_FORM)
    open_garden(page)
    left = page.get_by_label("This is what you wrote")
    expect(left).to_have_value("A long improvement.")
    page.get_by_role("button", name="Dismiss").click()
    page.reload()
    expect(question(page)).to_contain_text("Garden question 1?")
    expect(left).to_be_hidden()
    page.goto(home)
    expect_written(page)
    expect(left).to_be_hidden()
    page.keyboard.press("1")
    wait_for_next(page, 2)
    assert page.evaluate(KEPT) == []


def test_a_pick_of_the_old_form_is_sent_and_its_answer_shown_on_no_other_page(
    desk, browse, garden
):
    page = desk(settings=ASKS_ALL)
    write(page)
    pick_while_offline(page, browse)
    page.evaluate(OLD_FORM)
    page.unroute("**/judge/")
    open_garden(page)
    expect(page.locator("#live")).to_contain_text("kept on this device has been sent")
    wait_until(page, "() => !document.querySelector('#pair[data-busy]')")
    expect(question(page)).to_contain_text("Garden question 1?")
    expect(page.locator("#left-behind")).to_be_hidden()
    judgment = Judgment.objects.get()
    assert (judgment.project.slug, judgment.strength) == ("kitchen", 2)
    assert judgment.edited.text == "A long improvement."
    assert page.evaluate(KEPT) == []
    page.keyboard.press("2")
    expect(question(page)).to_contain_text("Garden question 2?")
    assert Lease.objects.filter(outcome="judged").count() == 2
