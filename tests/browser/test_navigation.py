"""The project's navigation in a browser: one line, no script needed, keyboard alone."""

import re

import pytest
from playwright.sync_api import Page, expect

from annotation.models import Project, Role
from tests.acts import decide
from tests.browser.conftest import NARROW, Browse
from tests.conftest import FLAGS, chromium_path
from tests.factories import make_comparison, make_judgment, make_project, make_user

# Playwright switches off the pages that a browser keeps whole for Back.
NO_PAGES_KEPT = "--disable-back-forward-cache"
HEIGHT = "document.querySelector('.project-nav').offsetHeight"
OVER = """Math.max(...[...document.querySelectorAll('.project-nav, .project-nav ul')].map(
    (list) => list.scrollWidth - list.clientWidth))"""


@pytest.fixture
def manager(transactional_db):
    user = make_user("manager")
    make_project(slug="kitchen", name="Kitchen", members={user: Role.MANAGER})
    return user


def link(page: Page, name: str):
    return page.get_by_role("navigation", name="Project").get_by_role(
        "link", name=name, exact=True
    )


def test_the_managers_navigation_is_one_line_at_1024_and_two_on_a_phone(
    browse, manager
):
    page = browse(manager, "/projects/kitchen/import/")
    one_line = page.evaluate(HEIGHT)
    assert one_line < 60
    for language in ("EN", "中文"):
        page.set_viewport_size({"width": 1024, "height": 768})
        page.get_by_role("button", name=language).click()
        expect(page.get_by_role("button", name=language)).to_have_attribute(
            "aria-pressed", "true"
        )
        for group in page.locator(".project-nav > ul:first-child a").all():
            page.goto(browse.url + group.get_attribute("href"))
            assert page.evaluate(HEIGHT) == one_line
            assert page.evaluate(OVER) <= 0
        page.set_viewport_size({"width": NARROW[0], "height": NARROW[1]})
        for name in ("import", "rounds"):
            page.goto(browse.url + f"/projects/kitchen/{name}/")
            assert one_line < page.evaluate(HEIGHT) < 2 * one_line + 2
            assert page.evaluate(OVER) <= 0


def test_groups_stay_where_they_are_from_page_to_page(browse, manager):
    page = browse(manager, "/projects/kitchen/", size=(1024, 768))
    places = set()
    for group in ("Judge", "Review", "Data", "Checks", "Training", "Project"):
        link(page, group).click()
        expect(link(page, group)).to_have_attribute("aria-current", re.compile("."))
        page.wait_for_load_state()  # A page measured before its styles has other places.
        places.add(tuple(link(page, "Checks").bounding_box().values()))
    assert len(places) == 1


def test_every_page_is_reached_without_a_script(browse, manager):
    page = browse(manager, "/projects/kitchen/", javascript=False)
    for group, names in {
        "Judge": ["Compare", "My history"],
        "Data": ["Pairs", "Prompts", "Import", "Export"],
        "Checks": ["Quality", "Flagged", "Rules", "Gold"],
        "Training": ["Rounds", "Policies"],
        "Project": ["Overview", "Members", "Settings"],
    }.items():
        link(page, group).click()
        for name in names:
            link(page, name).click()
            expect(link(page, name)).to_have_attribute("aria-current", "page")
            expect(link(page, group)).to_have_attribute("aria-current", "true")
    link(page, "Review").click()
    expect(link(page, "Review")).to_have_attribute("aria-current", "page")


def test_tab_goes_through_it_in_the_order_one_sees(browse, manager):
    page = browse(manager, "/projects/kitchen/export/")
    link(page, "Training").focus()
    for name in ("Pairs", "Prompts", "Import", "Export"):
        page.keyboard.press("Tab")
        expect(link(page, name)).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Import", exact=True)).to_be_visible()


def test_the_compare_page_keeps_its_one_line_on_a_phone(browse, manager):
    page = browse(manager, "/projects/kitchen/compare/", size=NARROW)
    assert page.evaluate(HEIGHT) < 60
    expect(link(page, "Compare")).to_be_in_viewport()


@pytest.mark.parametrize("name", ["annotator", "a-name-that-no-phone-has-room-for"])
def test_a_long_name_leaves_the_menus_arrow_in_sight_on_a_phone(
    browse, transactional_db, name
):
    page = browse(make_user(name, project=make_project(slug="k")), "/", size=NARROW)
    cut = """(css) => { const box = document.querySelector(css);
      return box.scrollWidth > box.clientWidth; }"""
    assert not page.evaluate(cut, ".menu > summary")
    assert page.evaluate(cut, ".menu > summary > span") == (name != "annotator")


def test_a_reviewers_groups_are_all_in_sight_on_a_phone(browse, manager):
    project = Project.objects.get()
    for _number in range(3):
        comparison = make_comparison(project=project, quota=2)
        for verdict in ("first", "tie"):
            make_judgment(comparison=comparison, verdict=verdict)
        decide(comparison)
    rita = make_user("rita", project=project, role=Role.REVIEWER)
    page = browse(rita, "/projects/kitchen/", size=NARROW)
    expect(page.locator(".project-nav .count")).to_have_text("3")
    assert page.evaluate(OVER) <= 0


def test_the_first_tab_of_a_project_page_reaches_the_skip_link(browse, manager):
    """Bringing the page's own link into sight must not move where Tab begins."""
    page = browse(manager, "/projects/kitchen/members/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(browse.url + "/projects/kitchen/rounds/")
    expect(link(page, "Training")).to_be_in_viewport(ratio=1)


def test_forced_colours_tell_the_page_one_is_on(browse, manager):
    """Every link's transparent border is drawn there: only one may stand out."""
    page = browse(manager, "/projects/kitchen/members/")
    page.emulate_media(forced_colors="active")
    border = "one => getComputedStyle(one).borderBlockEndColor"
    here = link(page, "Members").evaluate(border)
    others = {link(page, name).evaluate(border) for name in ("Overview", "Settings")}
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert others == {paper} != {here}


@pytest.fixture
def keeping(chromium):
    """A browser that keeps pages whole for Back, as people's do."""
    browser = chromium.browser_type.launch(
        executable_path=chromium_path(), args=FLAGS, ignore_default_args=[NO_PAGES_KEPT]
    )
    yield browser
    browser.close()


def test_back_shows_no_page_after_signing_out_and_keeps_what_was_typed_before_it(
    keeping, live_server, manager
):
    context = keeping.new_context(locale="en")
    context.add_cookies([Browse(keeping, live_server.url)._session(manager)])
    page = context.new_page()
    page.goto(f"{live_server.url}/projects/kitchen/settings/")
    page.get_by_label("Guidelines").fill("Half a page of guidelines")
    link(page, "Members").click()
    expect(page.get_by_role("heading", name="Members")).to_be_visible()
    back = "setTimeout(() => history.back())"  # go_back waits for a load event
    page.evaluate(back)
    expect(page.get_by_label("Guidelines")).to_have_value("Half a page of guidelines")
    page.locator("form[action='/logout/'] button").evaluate("(shut) => shut.click()")
    expect(page.get_by_label("Password")).to_be_visible()
    page.evaluate(back)
    expect(page).to_have_url(re.compile("/login/.*next=/projects/kitchen/settings/"))
    expect(page.get_by_label("Password")).to_be_visible()
    context.close()
