"""Pages on paper: all of their text, without what only a screen needs."""

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from tests.factories import make_comparison, make_completion, make_prompt

PAPER = {"width": 720, "height": 1000}
"""A4 in CSS pixels, margins taken off."""
CUT_OFF = """[...document.querySelectorAll("body, body *")]
  .filter((one) => one.checkVisibility() && !one.matches(".visually-hidden, .skip-link"))
  .filter((one) => getComputedStyle(one).overflowY !== "visible")
  .filter((one) => one.scrollHeight > one.clientHeight + 1)
  .map((one) => one.className)"""
LONG = "\n\n".join(f"Paragraph {number} of a long text." for number in range(80))


@pytest.mark.parametrize("page_name", ["compare", "history"])
def test_long_answers_are_printed_whole(browse, project, annotator, page_name):
    prompt = make_prompt(LONG, project=project)
    a, b = make_completion(LONG, prompt=prompt), make_completion(LONG, prompt=prompt)
    make_comparison(a=a, b=b)
    page = browse(annotator, reverse("compare", args=["kitchen"]))
    if page_name == "history":
        page.keyboard.press("1")
        expect(page.get_by_text("Waiting for the next pair")).to_be_visible()
        page.goto(browse.url + reverse("history", args=["kitchen"]))
        page.get_by_text("Show the pair").click()
    page.set_viewport_size(PAPER)
    assert page.evaluate(CUT_OFF)
    page.emulate_media(media="print")
    assert page.evaluate(CUT_OFF) == []
    assert page.evaluate("document.documentElement.scrollHeight") > 3 * PAPER["height"]
    expect(page.get_by_role("banner")).to_be_hidden()
    if page_name == "compare":
        expect(page.get_by_role("button", name="A is better")).to_be_hidden()
