"""Markdown of models and people as HTML that can do nothing but be read.

markdown-it's js-default escapes raw HTML; nh3 then lets only the listed tags through
(no images, styles, classes or ids, so nothing is fetched and nothing is disguised).
Rendered once, when a completion's row is made. Code isn't highlighted here.
"""

import html

import nh3
from markdown_it import MarkdownIt

MAX_CHARS = 30_000
# markdown-it looks for a partner of each "[" in all that follows: 20,000 of them take
# seconds, and an annotator's edit is rendered while they wait.
MAX_BRACKETS = 1_000

# `breaks`: a chat model's single newline is meant as one.
_markdown = MarkdownIt("js-default", {"breaks": True, "linkify": False})

_TAGS = {
    *("p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "strong", "em", "s", "del"),
    *("blockquote", "ul", "ol", "li", "code", "pre", "a"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}

# Characters that turn the reading direction around can show a text that isn't there.
_BIDI = {
    point: f"[U+{point:04X}]"
    for point in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def render_markdown(text: str) -> str:
    """Safe HTML. Never raises: what can't be rendered is shown as it was written."""
    shown = text.translate(_BIDI).replace("\0", "\ufffd")
    if len(shown) > MAX_CHARS or shown.count("[") > MAX_BRACKETS:
        return _plain(shown)
    try:
        rendered = _markdown.render(shown)
    except (RecursionError, ValueError, IndexError):
        return _plain(shown)
    return nh3.clean(
        rendered,
        tags=_TAGS,
        attributes={"a": {"href"}, "ol": {"start"}, "*": set()},
        url_schemes={"http", "https", "mailto"},
        link_rel="nofollow noopener noreferrer",
    )


def _plain(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"
