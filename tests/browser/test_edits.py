"""Improving an answer in place, on the desk in a real browser."""

from playwright.sync_api import expect

from annotation.diffing import word_diff
from annotation.models import Judgment
from tests.browser.desk import (
    editor,
    shown,
    verdicts,
    wait_for_next,
)


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
