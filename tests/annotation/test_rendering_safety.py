"""Models' markdown as HTML that can do nothing but be read, in bounded time."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation.rendering import markdown, render_markdown
from annotation.rendering.formulas import MAX_FORMULA
from tests.annotation.rendered import PAYLOADS, check

PARTS = [
    *PAYLOADS,
    *("`", "*", "> ", "- ", "\n", "\n\n", "[", "](", ")", "<", "\0", "|", "$", "$$"),
    *(r"\(", r"\)", r"\[", r"\]", r"\begin{align}", r"\end{align}", r"\frac{", "}"),
    *("```html\n", "\n```\n", "مرحبا", "中文。", "**", "[^1]", "\\"),
]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_that_acts_or_fetches_gets_through(payload):
    check(render_markdown(payload))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PARTS) | st.text(max_size=8), max_size=10).map("".join))
def test_no_mixture_of_it_does_either(text):
    check(render_markdown(text))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [*(rf"\{name} " for name in ("frac", "sqrt", "left(", "right)", "over"))]
            + [*(rf"\{name}{{" for name in ("text", "mathbf", "overset", "boxed"))]
            + [
                *(
                    "{",
                    "}",
                    "^",
                    "_",
                    "&",
                    r"\\",
                    "'",
                    "x",
                    "2",
                    "<",
                    '"',
                    "#1",
                    "%",
                    "中",
                )
            ]
            + [
                r"\begin{cases}",
                r"\end{cases}",
                r"\hspace{99em}",
                r"\limits",
                r"\tag{1}",
            ]
        ),
        max_size=30,
    ).map("".join),
    st.sampled_from(["${}$", "$${}$$", r"\({}\)", "$$\n{}\n$$"]),
)
def test_no_formula_is_an_error_or_more_than_mathml(latex, delimiters):
    check(render_markdown(delimiters.replace("{}", latex)))


def test_the_longest_formulas_end_no_process():
    """math-core recurses natively: the bound holds for the hungriest of its tokens."""
    for token in ("{", "^", "_", r"\sqrt ", r"\frac", r"\left(", "x^{", r"\bf{"):
        latex = (token * MAX_FORMULA)[: MAX_FORMULA - 2]
        check(render_markdown(f"$${latex}$$"))
        check(render_markdown(f"\\[\n{latex}\n\\]"))


def test_text_without_end_or_without_sense_is_shown_plain():
    """What takes markdown-it time that grows with the square isn't given to it."""
    for endless in ("[" * 20_000, "![" * 10_000, "x" * 100_001):
        assert render_markdown(endless).startswith("<pre")
        check(render_markdown(endless))
    check(render_markdown("<b>" * 20_000))
    check(render_markdown("**a " * 2000))


@pytest.mark.parametrize("depth", [10, 38, 60, 5000])
def test_what_is_nested_deep_is_shown_all_the_same(depth):
    assert "deep" in render_markdown("> " * depth + "deep")
    assert "deep" in render_markdown("- " * depth + "deep")


GROWING = [
    *(
        "*a ",
        "**a",
        "_*",
        "~~a ",
        "`a",
        "`` ` ",
        "<a ",
        "<!--",
        "&amp;",
        "\\",
        "\\(",
        "\\[",
    ),
    *("$", "$a ", "$$ ", "$a$ ", "\\[\n", "$$\n", "\\begin{align}\n", "- a\n", "> a\n"),
    *(
        "a\n",
        "# a\n",
        "```\n",
        "|",
        "|a|b|\n|-|-|\n",
        "![](a)",
        "<http://a>",
        "مرحبا ",
        "**“好”**的",
    ),
    *("```java\na\n```\n", "- a\n\n  \\[\n  \\[\n  x\n"),
]


@pytest.mark.parametrize("part", GROWING)
def test_twice_the_text_is_about_twice_the_work(part):
    """Counted in calls, Python's and those into C; the expressions of markdown-it and
    of formulas look at most a formula's length ahead."""

    def calls(length):
        text, count = (part * length)[:length], 0

        def tell(_frame, event, _argument):
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(tell)
        try:
            render_markdown(text)
        finally:
            sys.setprofile(None)
        return count

    assert calls(8_000) < 2.6 * calls(4_000) + 5_000


def test_a_text_of_full_length_comes_out_whole():
    paragraph = "Some *text* with $x^2$, `code` and مرحبا and 中文。\n\n"
    text = (paragraph * 3000)[: markdown.MAX_CHARS]
    html = render_markdown(text)
    assert not html.startswith("<pre")
    assert html.count("<math>") == text.count("$x^2$")
