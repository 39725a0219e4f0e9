"""Nothing typed is ever lost: reload, lost network, ended session, too late."""

from datetime import timedelta

from django.contrib.sessions.models import Session
from django.utils import timezone
from playwright.sync_api import Page, expect

from annotation.leasing import take_lease
from annotation.models import Judgment, Lease, Slot
from tests.browser.desk import (
    ASKS_ALL,
    KEPT,
    editor,
    verdicts,
    wait_for_next,
)
from tests.factories import (
    make_user,
)


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
    page.get_by_role("button", name="Dismiss").click()
    expect(left).to_be_hidden()
    page.reload()
    wait_for_next(page, 2)
    expect(left).to_be_hidden()


def test_an_undo_gives_everything_back_on_the_next_load_as_well(desk):
    page = desk(settings=ASKS_ALL)
    fill_everything(page)
    page.keyboard.press("1")
    wait_for_next(page, 2)
    page.keyboard.press("u")
    wait_for_next(page, 1)
    page.reload()
    wait_for_next(page, 1)
    expect_everything(page)


def undo_from_the_history(page: Page) -> None:
    page.goto(page.url.replace("/compare/", "/history/"))
    page.get_by_role("button", name="Undo and judge again").click()
    wait_for_next(page, 1)


def test_an_undo_from_the_history_gives_everything_back(desk):
    page = desk(settings=ASKS_ALL)
    fill_everything(page)
    page.keyboard.press("1")
    wait_for_next(page, 2)
    undo_from_the_history(page)
    expect_everything(page)
    page.keyboard.press("1")
    wait_for_next(page, 2)
    judgment = Judgment.objects.get(undone_at=None)
    assert (judgment.edited.text, judgment.comment) == (
        "Improved\nby hand.",
        "because 1 2 b",
    )


def test_without_javascript_an_undo_gives_edit_and_comment_back(desk):
    page = desk(javascript=False)
    page.locator(".comment > summary").click()
    page.get_by_label("Comment (optional)").fill("long thoughts")
    page.locator(".answer-b .edit > summary").click()
    page.get_by_label("Answer B, improved").fill("By\nhand.")
    page.get_by_role("button", name="B is better").click()
    wait_for_next(page, 2)
    undo_from_the_history(page)
    expect(page.get_by_label("Comment (optional)")).to_have_value("long thoughts")
    expect(page.get_by_label("Answer B, improved")).to_have_value("By\nhand.")


def test_what_was_taken_out_after_an_undo_stays_out(desk):
    """On a reload, once it is judged anew, and after one more undo."""
    page = desk(settings=ASKS_ALL)
    fill_everything(page)
    page.keyboard.press("1")
    wait_for_next(page, 2)
    undo_from_the_history(page)
    box = page.get_by_label("Comment (optional)")
    box.fill("shorter")
    page.locator(".answer-a .edit > summary").click()
    page.locator("h1").click()
    page.keyboard.press("8")
    page.reload()
    wait_for_next(page, 1)
    expect(box).to_have_value("shorter")
    expect(editor(page)).to_have_count(0)
    expect(page.get_by_role("radio", name="clearly")).not_to_be_checked()
    box.fill("")
    page.reload()
    wait_for_next(page, 1)
    expect(page.get_by_role("checkbox", name="correct")).to_be_checked()
    expect(box).to_have_value("")
    page.locator("h1").click()
    page.keyboard.press("1")
    wait_for_next(page, 2)
    undo_from_the_history(page)
    expect(page.get_by_role("checkbox", name="correct")).to_be_checked()
    expect(box).to_have_value("")
    expect(editor(page)).to_have_count(0)


def test_an_emptied_edit_is_refused_after_a_cut_of_the_network_too(desk, browse):
    browse.expected += ["ERR_INTERNET_DISCONNECTED", "htmx:", "422"]
    page = desk()
    page.keyboard.press("c")
    page.keyboard.type("worth keeping")
    page.keyboard.press("Escape")
    page.keyboard.press("e")
    editor(page).fill("")
    page.context.set_offline(True)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("alert")).to_contain_text("kept on this device")
    page.context.set_offline(False)
    refusal = page.get_by_role("alert").filter(has_text="You have emptied answer A")
    expect(refusal).to_be_visible()
    expect(editor(page)).to_have_value("")
    expect(page.get_by_label("Comment (optional)")).to_have_value("worth keeping")
    page.reload()
    wait_for_next(page, 1)
    expect(editor(page)).to_have_value("")
    assert verdicts() == []
