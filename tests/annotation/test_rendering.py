"""Models' markdown as HTML that can do nothing but be read."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation import rendering
from annotation.rendering import render_markdown

PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![track](https://evil.example/x.png)",
    "[click](javascript:alert(1))",
    "[click](data:text/html;base64,PHNjcmlwdD4=)",
    "[click](//evil.example)",
    "<a href='javascript:alert(1)'>x</a>",
    "<style>*{display:none}</style>",
    "<form action=/><button hx-post=/leases/>A is better</button></form>",
    "<div hx-get='/x' hx-trigger='load'>",
    "<svg/onload=alert(1)>",
    "`<script>`\n\n```html\n<script>alert(1)</script>\n```",
    '[x](https://a.example "onmouseover=alert(1)")',
    "<https://a.example/\"onclick='alert(1)>",
    "| a |\n|:-:|\n| <b onclick=alert(1)>x |",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
]
ALLOWED = {"a": {"href", "rel"}, "ol": {"start"}}


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def check(html):
    tags = Tags()
    tags.feed(html)
    for tag, attributes in tags.found:
        assert tag in rendering._TAGS, tag
        assert set(attributes) <= ALLOWED.get(tag, set()), (tag, attributes)
        if "href" in attributes:
            assert re.match(r"(https?|mailto):|[^:]*$", attributes["href"])
            assert attributes["rel"] == "nofollow noopener noreferrer"


@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_that_acts_or_fetches_gets_through(payload):
    check(render_markdown(payload))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [*PAYLOADS, "`", "*", "> ", "- ", "\n", "[", "](", ")", "<", "\0"]
        )
        | st.text(max_size=8),
        max_size=8,
    ).map("".join)
)
def test_no_mixture_of_it_does_either(text):
    check(render_markdown(text))


def test_markdown_is_shown_as_it_is_meant():
    html = render_markdown("# T\n\n1. one\n2. **two**\n\n```py\nx < 1\n```\nnew\nline")
    for part in ("<h1>T</h1>", "<ol>", "<strong>two</strong>", "x &lt; 1", "new<br"):
        assert part in html
    assert "<table>" in render_markdown("|a|b|\n|-|-|\n|1|2|")
    assert "为什么" in render_markdown("为什么")


def test_characters_that_turn_the_direction_are_made_visible():
    assert "[U+202E]" in render_markdown("safe \u202etxet")


def test_text_without_end_or_without_sense_is_shown_plain():
    """What takes markdown-it time that grows with the square isn't given to it."""
    for endless in ("<b>" * 20_000, "[" * 20_000, "![" * 10_000, "x" * 30_001):
        assert render_markdown(endless).startswith("<pre>")
        check(render_markdown(endless))
    check(render_markdown("> " * 5000 + "deep"))
    check(render_markdown("**a " * 2000))
