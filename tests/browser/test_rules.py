"""A manager previews and saves rules; a reviewer repairs a pair: in a real browser."""

import pytest
from playwright.sync_api import expect

from annotation.checking import check_waiting
from annotation.models import PreferencePair, Role
from tests.factories import (
    make_comparison,
    make_completion,
    make_judgment,
    make_lease,
    make_pair,
    make_project,
    make_prompt,
    make_user,
)

GOOD = "Water boils at a hundred degrees at sea level, lower on a mountain."
OTHER = "It depends: pressure falls with height and the boiling point with it."


@pytest.fixture
def project(transactional_db, monkeypatch):
    monkeypatch.setattr(
        "annotation.tasks.check_pairs.apply_async", lambda *args, **options: None
    )
    monkeypatch.setattr("inference.services.count_tokens", lambda messages: 20)
    return make_project(slug="kitchen", name="Kitchen")


@pytest.fixture
def mona(project):
    return make_user("mona", project=project, role=Role.MANAGER)


@pytest.fixture
def pairs(project):
    made = []
    for question, chosen in (
        ("Why does water boil early?", GOOD),
        ("Is soup hot?", "Mostly so."),
    ):
        prompt = make_prompt(question, project=project)
        a = make_completion(chosen, prompt=prompt)
        b = make_completion(OTHER, prompt=prompt)
        lease = make_lease(comparison=make_comparison(a=a, b=b))
        made.append(make_pair(judgment=make_judgment(lease=lease), state="unchecked"))
    check_waiting()
    return made


def test_typing_a_number_shows_what_it_would_cost_before_it_is_saved(
    browse, project, mona, pairs
):
    page = browse(mona, "/projects/kitchen/rules/")
    preview = page.locator("#preview")
    expect(preview).to_contain_text("Nothing is saved by looking")
    floor = page.locator("[name='rules.chosen_width.min_columns']")
    floor.fill("100")
    expect(preview).to_contain_text("would be lost")
    expect(
        preview.get_by_role("link", name="Why does water boil early?")
    ).to_be_visible()
    floor.fill("5")
    expect(preview).to_contain_text("would be won back")
    expect(preview.get_by_role("link", name="Is soup hot?")).to_be_visible()
    browse.expected.append("422")
    floor.fill("-1")
    expect(preview.get_by_role("alert")).to_contain_text("must be a whole number")
    floor.fill("5")
    expect(preview).to_contain_text("would be won back")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status").first).to_contain_text("checked again")
    expect(floor).to_have_value("5")
    check_waiting()
    assert set(project.pairs.values_list("state", flat=True)) == {"accepted"}


def test_the_preview_works_without_javascript(browse, project, mona, pairs):
    page = browse(mona, "/projects/kitchen/rules/", javascript=False)
    page.locator("[name='rules.chosen_width.min_columns']").fill("100")
    page.get_by_role("button", name="Preview").click()
    expect(page.locator("#preview")).to_contain_text("Why does water boil early?")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status").first).to_contain_text("Saved")


def test_a_reviewer_finds_a_rejected_pair_and_repairs_it(browse, project, pairs):
    rita = make_user("rita", project=project, role=Role.REVIEWER)
    page = browse(rita, "/projects/kitchen/pairs/")
    page.get_by_role("link", name="rejected by a rule").click()
    page.get_by_role("link", name="The chosen answer is too short").click()
    page.get_by_role("link", name="Is soup hot?").click()
    expect(page.get_by_text("10 columns wide, less than 50")).to_be_visible()
    page.get_by_text("Repair by an edit").click()
    page.get_by_label("Chosen answer").fill(GOOD)
    page.get_by_label("What was wrong").fill("Too short to teach anything.")
    page.get_by_role("button", name="Save the repair").click()
    expect(page.get_by_text("this page looks again by itself")).to_be_visible()
    check_waiting()
    expect(page.get_by_text("No rule objects.")).to_be_visible()
    expect(page.get_by_text("Repair by an edit")).to_be_visible()
    expect(page.locator("#pair .badge.good", has_text="accepted")).to_be_visible()
    page.get_by_role("link", name="See it as it was").click()
    expect(page.get_by_text("rita repaired")).to_be_visible()
    made = PreferencePair.objects.get(repaired_from=pairs[1])
    assert (made.state, made.chosen.text) == ("accepted", GOOD)


def test_a_reviewer_lets_a_pair_through_by_keyboard_and_takes_it_back(
    browse, project, pairs
):
    rita = make_user("rita", project=project, role=Role.REVIEWER)
    page = browse(rita, f"/projects/kitchen/pairs/{pairs[1].pk}/?state=rejected")
    page.get_by_label("Why this pair is good all the same").focus()
    page.keyboard.type("It was a yes-or-no question.")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").first).to_contain_text("may train now")
    expect(page.get_by_text("It was a yes-or-no question.")).to_be_visible()
    pairs[1].refresh_from_db()
    assert pairs[1].state == "accepted"
    page.get_by_role("button", name="Take it back").click()
    expect(page.get_by_text("ended by rita")).to_be_visible()
    pairs[1].refresh_from_db()
    assert pairs[1].state == "rejected"
