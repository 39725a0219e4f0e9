"""Answers in a real Chromium: what the parser makes of them, code, tables, differences."""

import pytest
from playwright.sync_api import expect

from annotation.models import Role
from annotation.rendering import markdown, render_markdown
from tests.annotation.rendered import PAYLOADS
from tests.browser.conftest import NARROW, WIDE, wait_until
from tests.browser.test_every_page import violations
from tests.factories import (
    make_comparison,
    make_completion,
    make_pair,
    make_project,
    make_prompt,
    make_user,
)

COLUMNS = "|".join(f"column {number}" for number in range(12))
A = f"""# Eggs

Boil **six** minutes.

```python
@once
class Egg(Exception):  # a comment
    def boil(self): return 6 + None
print("one")
{"x" * 300}
```

|{COLUMNS}|
|{"-|" * 12}
|{"value|" * 12}

$$
\\begin{{align}} a &= b \\\\ c &= \\frac12 \\end{{align}}
$$

مرحبا بالعالم

```diff
- gone
+ new
```

- [x] done[^1]

[^1]: ![a picture](https://a.example/a.png)

> 引用**“好”**的*字*

{"u" * 400} https://example.org/{"v" * 400}
"""
B = A.replace("six", "seven").replace("print", "write")


@pytest.fixture
def annotator(transactional_db):
    user = make_user("ann")
    project = make_project(slug="kitchen", members={user: Role.ANNOTATOR})
    prompt = make_prompt("How long?", project=project)
    for number in "12":
        a, b = (
            make_completion(
                text + number, prompt=prompt, html=render_markdown(text + number)
            )
            for text in (A, B)
        )
        make_comparison(a=a, b=b)
    return user


def test_chromium_makes_of_every_attack_only_what_is_allowed(browse):
    """The cleaner parses as browsers do; here a browser has the last word."""
    page = browse(None, "/login/")
    for payload in [*PAYLOADS, "".join(PAYLOADS), "\n\n".join(PAYLOADS)]:
        page.set_content(f'<body><div id="all">{render_markdown(payload)}</div></body>')
        found = page.evaluate(
            "[...document.querySelectorAll('#all *')].map(e => [e.localName,"
            " e.namespaceURI, [...e.attributes].map(a => a.name)])"
        )
        for name, namespace, attributes in found:
            assert name in markdown.TAGS, (payload, name)
            allowed = markdown.ATTRIBUTES.get(name, set()) | {"class"}
            assert set(attributes) <= allowed, (payload, attributes)
            is_mathml = namespace.endswith("MathML")
            assert is_mathml is (name in markdown.MATHML), (payload, name)
        assert page.evaluate("document.body.children.length") == 1


def test_code_is_copied_by_keyboard_and_that_is_said(browse, annotator):
    page = browse(annotator, "/projects/kitchen/compare/")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    copy = page.locator(".answer-a .copy").first
    copy.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#live")).to_have_text("Copied")
    expect(copy).to_have_text("Copied")
    expect(copy).to_have_text("Copy code")  # again after a while
    text = page.evaluate("() => navigator.clipboard.readText()")
    assert text.startswith("@once") and text.endswith("x\n")


def test_without_a_clipboard_the_code_is_selected_and_copied_the_old_way(
    browse, annotator
):
    page = browse(annotator, "/projects/kitchen/compare/")
    page.evaluate(
        "() => Object.defineProperty(navigator, 'clipboard', {value: undefined})"
    )
    page.locator(".answer-a .copy").first.click()
    expect(page.locator("#live")).to_have_text("Copied")
    assert "one" in page.evaluate("() => getSelection().toString()")


def test_without_javascript_there_is_no_copy_button_and_all_is_readable(
    browse, annotator
):
    page = browse(annotator, "/projects/kitchen/compare/", javascript=False)
    expect(page.locator(".answer-a .answer-text")).to_contain_text("مرحبا")
    expect(page.locator(".copy")).to_have_count(0)
    # The script's own button would do nothing.
    expect(page.get_by_role("button", name="Differences")).to_have_count(0)
    page.get_by_role("link", name="Differences").click()
    expect(page.locator("mark").first).to_be_visible()
    page.get_by_role("link", name="Back to the pair").click()
    expect(page.locator("#pair")).to_be_visible()


@pytest.mark.parametrize("size", [NARROW, WIDE])
def test_what_is_wide_scrolls_inside_and_by_keyboard(browse, annotator, size):
    page = browse(annotator, "/projects/kitchen/compare/", size=size)
    answer = page.locator(".answer-a .answer-text")
    expect(answer.locator("pre").first).to_have_attribute("tabindex", "0")
    assert answer.evaluate("e => e.scrollWidth <= e.clientWidth")
    assert page.evaluate(
        "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
    assert page.evaluate(
        "document.documentElement.scrollHeight <= document.documentElement.clientHeight"
    )
    table = answer.locator("div.scroll")
    expect(table).to_have_attribute("aria-label", "Wide part, scrolls sideways")
    table.focus()
    page.keyboard.press("ArrowRight")
    wait_until(
        page, "() => document.querySelector('.answer-a div.scroll').scrollLeft > 0"
    )
    formula = answer.locator("math").bounding_box()
    assert formula and formula["height"] > 30  # two lines, not source text


def test_d_marks_the_differences_and_takes_the_marks_away(browse, annotator):
    page = browse(annotator, "/projects/kitchen/compare/")
    expect(page.locator("button.difference")).to_be_visible()
    before = page.locator(".answer-a .answer-text").inner_html()
    assert page.locator("mark").count() == 0
    page.keyboard.press("d")
    expect(page.locator(".answer mark")).to_have_count(4)
    expect(page.locator("button.difference")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#live")).to_have_text("The answers differ in 2 places.")
    words = page.locator(".answer mark").all_inner_texts()
    assert sorted(words) == ["print", "seven", "six", "write"]
    # By more than colour.
    assert "underline" in page.locator(".answer mark").first.evaluate(
        "e => getComputedStyle(e).textDecorationLine"
    )
    page.keyboard.press("d")
    expect(page.locator(".answer mark")).to_have_count(0)
    after = page.locator(".answer-a .answer-text").inner_html()
    assert after == before


def test_the_next_pair_is_marked_too_and_a_pick_is_never_held_up(browse, annotator):
    page = browse(annotator, "/projects/kitchen/compare/")
    page.keyboard.press("d")
    expect(page.locator(".answer mark")).to_have_count(4)
    lease = page.locator("#pair").get_attribute("data-lease")
    page.keyboard.press("1")
    expect(page.locator("#pair")).not_to_have_attribute("data-lease", lease or "")
    expect(page.locator(".answer mark")).to_have_count(4)
    page.reload()
    expect(page.locator(".answer mark")).to_have_count(4)


def test_differences_that_come_late_never_land_beside_another_pair(browse, annotator):
    page = browse(annotator, "/projects/kitchen/compare/")
    expect(page.locator("button.difference")).to_be_visible()
    lease = page.locator("#pair").get_attribute("data-lease")
    waiting = []
    page.route("**/differences/", lambda route: waiting.append(route))
    page.keyboard.press("d")
    wait_until(page, "() => document.querySelector('.difference[aria-pressed=true]')")
    page.keyboard.press("1")
    expect(page.locator("#pair")).not_to_have_attribute("data-lease", lease or "")
    shown = page.locator(".answer-a .answer-text").inner_text()
    for route in list(waiting):
        if lease in route.request.url:
            route.fulfill(
                body='<div data-for=".answer-a" data-places="1" data-told="x">WRONG</div>'
            )
    page.wait_for_timeout(300)
    assert page.locator(".answer-a .answer-text").inner_text() == shown
    for route in waiting:
        if lease not in route.request.url:
            route.continue_()
    expect(page.locator(".answer mark")).to_have_count(4)


def test_axe_finds_nothing_in_any_kind_of_text_marked_or_not(browse, annotator):
    page = browse(annotator, "/projects/kitchen/compare/")
    expect(page.locator(".answer-a .copy").first).to_be_visible()
    found = violations(page)
    page.keyboard.press("d")
    expect(page.locator(".answer mark")).to_have_count(4)
    assert not found + violations(page)


def shown(question: str, answer: str):
    """A project's annotator and a pair of this answer, ready to be compared."""
    user = make_user("olga")
    project = make_project(slug="kitchen", members={user: Role.REVIEWER})
    prompt = make_prompt(question, project=project)
    a, b = (
        make_completion(text, prompt=prompt, html=render_markdown(text))
        for text in (answer, "Short.")
    )
    return user, make_comparison(a=a, b=b)


def test_an_item_that_reads_against_its_list_keeps_its_mark_inside(browse):
    user, _ = shown("שלום?", "- שלום עולם וברוכים הבאים\n- one two three four five")
    page = browse(user, "/projects/kitchen/compare/")
    apart = """() => {
        const item = document.querySelector(".answer-text li[dir='ltr']");
        return item.getBoundingClientRect().left
            - item.parentElement.getBoundingClientRect().left;
    }"""
    assert page.evaluate(apart) >= 20


def test_a_question_that_reads_from_the_right_begins_at_the_right_of_its_card(browse):
    user, _ = shown("מה ההבדל בין רשימה לקבוצה?", "תשובה אחת.")
    page = browse(user, "/projects/kitchen/compare/", size=WIDE)
    room = """([card, text]) =>
        document.querySelector(card).getBoundingClientRect().right
        - document.querySelector(text).getBoundingClientRect().right"""
    assert page.evaluate(room, [".prompt", ".prompt .prose > p"]) < 30
    assert page.evaluate(room, [".answer", ".answer .prose > p"]) < 30


def test_a_long_question_is_read_from_its_beginning_a_chat_from_its_end(browse):
    lines = "\n\n".join(f"Line {number}." for number in range(1, 200))
    user, pair = shown(lines, "An answer.")
    page = browse(user, "/projects/kitchen/compare/")
    expect(page.get_by_text("Line 1.", exact=True)).to_be_in_viewport()
    first, last = (
        {"role": role, "content": text}
        for role, text in (("assistant", lines), ("user", "And then?"))
    )
    pair.prompt.messages = [*pair.prompt.messages, first, last]
    pair.prompt.save()
    for size in (WIDE, (640, 400)):
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.reload()
        expect(page.get_by_text("And then?")).to_be_in_viewport()


def test_the_long_last_question_of_a_chat_is_read_from_its_beginning(browse):
    """On a page opened anew as on a pair that is swapped in."""
    lines = "\n\n".join(f"Line {number}." for number in range(1, 200))
    user, pair = shown("First?", "An answer.")
    answer = {"role": "assistant", "content": lines}
    question = {"role": "user", "content": f"Summarise this:\n\n{lines}"}
    pair.prompt.messages = [*pair.prompt.messages, answer, question]
    pair.prompt.save()
    for size in (WIDE, (640, 400)):
        page = browse(user, "/projects/kitchen/compare/", size=size)
        begins = page.get_by_text("Summarise this:")
        expect(begins).to_be_in_viewport()
        page.keyboard.press("1")
        expect(page.locator(".done")).to_contain_text("Saved")
        page.keyboard.press("u")
        expect(page.locator(".done")).to_contain_text("Undone")
        expect(begins).to_be_in_viewport()


def test_one_long_answer_leaves_what_can_be_done_on_the_next_screen(browse):
    user, comparison = shown("How?", "A line.\n\n" * 400)
    pair = make_pair(comparison=comparison, annotator=user, state="rejected")
    page = browse(user, f"/projects/kitchen/pairs/{pair.pk}/")
    long = page.get_by_role("group", name="Long text, scrolls")
    expect(long).to_have_count(1)
    expect(long).to_have_attribute("tabindex", "0")
    let_through = page.get_by_role("button", name="Let it through")
    assert let_through.bounding_box()["y"] < 2 * WIDE[1]
    assert not violations(page)
