"""Forms that are sent twice, or refused: what the person at the keyboard meets."""

import re
import time

import pytest
from django.contrib.sessions.models import Session
from playwright.sync_api import expect

from annotation import projects
from annotation.models import Decision, Project, Role
from tests.acts import decide
from tests.factories import (
    make_comparison,
    make_flag,
    make_judgment,
    make_project,
    make_user,
)


@pytest.fixture
def manager(transactional_db):
    user = make_user("manager", password="let me in")
    make_project(slug="kitchen", members={user: Role.MANAGER})
    return user


def test_a_refused_form_is_gone_on_with_at_the_field_that_was_wrong(browse, manager):
    browse.expected += ["422", "404"]
    page = browse(manager, "/projects/kitchen/settings/")
    share = page.get_by_label("Share of prompts held out")
    share.fill("7")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert").first).to_contain_text("Nothing was saved")
    expect(share).to_be_focused()
    expect(share).to_be_in_viewport()
    expect(share).to_have_value("7")
    # Not the name that programs know it by.
    expect(page.locator(".error")).to_contain_text("“Share of prompts held out”")

    page.goto(browse.url + "/projects/kitchen/members/")
    page.get_by_label("User name").fill("nobody")
    page.keyboard.press("Enter")
    expect(page.locator(".error")).to_contain_text("nobody")
    expect(page.get_by_label("User name")).to_be_focused()

    page.goto(browse.url + "/projects/kitchen/import/")
    page.get_by_role("button", name="Look at it").click()
    expect(page.get_by_role("alert")).to_be_focused()


def test_a_second_click_while_the_server_is_slow_sends_nothing_again(
    browse, manager, monkeypatch
):
    calls = []

    def slow(*args, **fields):
        calls.append(1)
        time.sleep(1)
        return real(*args, **fields)

    real = projects.change_member
    monkeypatch.setattr(projects, "change_member", slow)
    make_user("rita")
    page = browse(manager, "/projects/kitchen/members/")
    page.get_by_label("User name").fill("rita")
    add = page.get_by_role("button", name="Add", exact=True)
    # Playwright's own second click would wait for the page the first one asked for.
    add.evaluate("one => { one.click(); setTimeout(() => one.click(), 300); }")
    expect(page.get_by_text("rita is a member now")).to_be_visible()
    assert len(calls) == 1


def test_removing_a_member_asks_first_also_by_keyboard(browse, manager):
    project = Project.objects.get()
    make_user("dora", project=project)
    page = browse(manager, "/projects/kitchen/members/")
    names = project.memberships.values_list("user__username", flat=True)
    row = page.get_by_role("listitem").filter(has_text="dora")
    row.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("dora can no longer open this project")).to_be_visible()
    assert "dora" in names.all()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text("dora is no longer a member")).to_be_visible()
    assert "dora" not in names.all()


def test_withdrawing_a_flagged_pair_asks_first_also_without_javascript(browse, manager):
    comparison = make_comparison(project=Project.objects.get())
    lease = make_flag(comparison.project, manager, comparison=comparison)
    page = browse(manager, "/projects/kitchen/flagged/", javascript=False)
    withdraw = page.get_by_role("button", name="Withdraw the pair", exact=True)
    expect(withdraw).to_be_hidden()
    page.locator(f"#confirm-{lease.key} > summary").click()
    withdraw.click()
    expect(page.get_by_text("Withdrawn: nobody is offered this pair")).to_be_visible()
    comparison.refresh_from_db()
    assert comparison.state == "withdrawn"


def test_escape_and_a_press_elsewhere_close_what_asks_first(browse, manager):
    make_user("dora", project=Project.objects.get())
    page = browse(manager, "/projects/kitchen/members/")
    remove = page.get_by_role("listitem").filter(has_text="dora").locator("summary")
    panel = page.get_by_text("dora can no longer open this project")
    remove.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Remove dora", exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(remove).to_be_focused()

    remove.click()
    expect(panel).to_be_visible()
    page.get_by_role("heading", name="Members", exact=True).click()
    expect(panel).to_be_hidden()


def end_session_and_sign_in_again(page, press):
    """`press` sends the form; signing in takes place in another tab."""
    Session.objects.all().delete()
    press()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("You have been signed out")
    with page.context.expect_page() as opened:
        alert.get_by_role("link").click()
    beside = opened.value
    beside.get_by_label("Username").fill("manager")
    beside.get_by_label("Password").fill("let me in")
    beside.get_by_role("button", name="Sign in").click()
    expect(beside.get_by_role("main")).to_be_visible()
    expect(beside).not_to_have_url(re.compile("/login/"))


def test_what_was_typed_into_a_form_outlives_the_session(browse, manager):
    page = browse(manager, "/projects/kitchen/settings/")
    page.get_by_label("Guidelines").fill("Be brief.")
    save = page.get_by_role("button", name="Save")
    end_session_and_sign_in_again(page, save.click)
    expect(page.get_by_label("Guidelines")).to_have_value("Be brief.")
    save.click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    assert Project.objects.get().guidelines == "Be brief."


def test_what_was_typed_for_a_file_without_network_stays(browse, manager):
    browse.expected += ["ERR_INTERNET_DISCONNECTED"]
    page = browse(manager, "/projects/kitchen/import/")
    page.get_by_label("Or paste it here").fill('{"prompt": "Why?"}')
    page.context.set_offline(True)
    page.get_by_role("button", name="Look at it").click()
    expect(page.get_by_role("alert")).to_contain_text("No connection")
    page.context.set_offline(False)
    page.get_by_role("button", name="Look at it").click()
    expect(page.get_by_role("heading", name="pasted lines")).to_be_visible()


def test_a_reviewers_note_outlives_the_session(browse, manager):
    comparison = make_comparison(project=Project.objects.get(), quota=2)
    for verdict in ("first", "second"):
        make_judgment(comparison=comparison, verdict=verdict)
    decide(comparison)
    page = browse(manager, "/projects/kitchen/review/")
    page.keyboard.press("n")
    page.get_by_label("Note (optional)").fill("Both were sent.")
    pick = page.get_by_role("button", name="A is better")
    end_session_and_sign_in_again(page, pick.click)
    expect(page.get_by_label("Note (optional)")).to_have_value("Both were sent.")
    pick.click()
    expect(page.locator(".done")).to_contain_text("Decided: A is better")
    assert Decision.objects.get(method="reviewer").note == "Both were sent."


def test_what_the_tab_key_leads_to_is_not_behind_the_bar(browse, manager):
    page = browse(manager, "/projects/kitchen/settings/")
    page.get_by_label("Name").focus()
    for _press in range(20):
        page.keyboard.press("Tab")
        top = page.evaluate("document.activeElement.getBoundingClientRect().top")
        bar = page.locator(".save-bar").evaluate(
            "one => one.getBoundingClientRect().top"
        )
        assert top < bar - 10, page.evaluate("document.activeElement.name")
