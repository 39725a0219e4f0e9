"""Markdown to HTML: the parser put together, its bounds, and what gets through at last.

markdown-it's js-default escapes raw HTML; nh3 then lets only the listed tags, attributes
and classes through: no images, styles or ids, so nothing is fetched, nothing disguised
and no two answers on a page clash. Rendered once, when a completion's row is made;
`RENDERER_VERSION` tells rows that were rendered by an older one.
"""

import html
import re
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from mdit_py_plugins.footnote import footnote_plugin

from annotation.rendering import formulas, highlighting, scripts

RENDERER_VERSION = 2
"""Raise it with every change to what comes out; a test says when."""

MAX_CHARS = 100_000
# markdown-it looks for a partner of each "[" far ahead: 1,000 take 0.1 s, 20,000 seconds,
# and an annotator's edit is rendered while they wait.
MAX_BRACKETS = 1_000
# A table's rows are filled up to its columns: sixty columns over 2,000 lines of one
# letter would be 4 s and 700 kB.
MAX_CELLS = 10_000
MAX_DEPTH = 40
# A formula can be forty times as long in MathML.
MAX_HTML = 2_000_000

MATHML = {
    *("math", "mrow", "mi", "mo", "mn", "mtext", "mspace", "mfrac", "msqrt", "mroot"),
    *("msub", "msup", "msubsup", "munder", "mover"),
    *("munderover", "mtable", "mtr", "mtd"),
    *("mpadded", "mphantom", "mmultiscripts", "mprescripts", "menclose"),
}
TAGS = MATHML | {
    *("p", "br", "hr", "h3", "h4", "h5", "h6"),
    *("strong", "em", "s", "sup", "span", "div"),
    *("blockquote", "ul", "ol", "li", "code", "pre", "a"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
_BLOCK = {"dir", "lang"}
ATTRIBUTES: dict[str, set[str]] = {
    "*": set(),
    "a": {"href", "rel", "target"},
    "ol": {"start"} | _BLOCK,
    "pre": {"dir"},
    "div": {"dir"},
    **dict.fromkeys(
        ("p", "h3", "h4", "h5", "h6", "ul", "li", "blockquote", "table", "th", "td"),
        _BLOCK,
    ),
    "math": {"display"},
    "mrow": {"displaystyle", "scriptlevel"},
    "mi": {"mathvariant"},
    "mo": {
        *("stretchy", "form", "fence", "symmetric", "largeop", "movablelimits"),
        *("lspace", "rspace", "minsize", "maxsize"),
    },
    "mspace": {"width", "height", "depth"},
    "mpadded": {"width", "height", "depth", "lspace", "voffset"},
    "mfrac": {"linethickness", "displaystyle"},
    "mover": {"accent"},
    "munder": {"accentunder"},
    "munderover": {"accent", "accentunder"},
    "mtable": {"displaystyle", "scriptlevel"},
    "menclose": {"notation"},
}
CLASSES = {
    "span": highlighting.CLASSES | {"code-name", "scroll", "formula"},
    "div": {"code", "scroll"},
    "code": {"tex"},
    "pre": {"plain"},
    "a": {"picture"},
    "sup": {"note"},
    "li": {"task"},
    "ol": {"notes"},
    "th": {"to-right", "to-center"},
    "td": {"to-right", "to-center"},
    "mtd": formulas.CLASSES,
    "mtable": formulas.CLASSES,
}

# Characters that turn the reading direction around can show a text that isn't there.
_BIDI = {
    point: f"[U+{point:04X}]"
    for point in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
_LENGTH = re.compile(r"([+-]?(?:\d{1,9}(?:\.\d{1,12})?|\.\d{1,12}))(em|ex|px|pt|%)?")
_WORD = re.compile(r"[A-Za-z0-9 -]{1,40}")
_MAX_EM = 4
_LENGTHS = {
    *("lspace", "rspace", "minsize", "maxsize", "width", "height", "depth", "voffset"),
    "linethickness",
}


def render_markdown(text: str) -> str:
    """Safe HTML. Never raises: what can't be rendered is shown as it was written."""
    shown = text.translate(_BIDI).replace("\0", "\ufffd")
    is_long = len(shown) > MAX_CHARS or shown.count("[") > MAX_BRACKETS
    if is_long or _most_cells(shown) > MAX_CELLS:
        return _plain(shown)
    try:
        rendered = _markdown.render(shown)
    except (RecursionError, ValueError, IndexError):
        return _plain(shown)
    return _cleaner.clean(rendered) if len(rendered) <= MAX_HTML else _plain(shown)


def _most_cells(text: str) -> int:
    """Cells that the tables of a text may have at most: the columns of each line under a
    head, times the lines down to the next empty one."""
    cells = columns = 0
    for line in text.split("\n"):
        if not line.strip(" \t>"):
            columns = 0
        elif "|" in line and "-" in line and not line.strip(" \t>|:-"):
            columns = max(columns, line.count("|") + 1)
        cells += columns
    return cells


def _plain(text: str) -> str:
    return f'<pre class="plain" dir="auto">{html.escape(text)}</pre>'


def _sane(tag: str, name: str, value: str) -> str | None:
    """A formula may not reach out of its place and write over its neighbours."""
    if tag not in MATHML or name == "class":
        return value
    if name not in _LENGTHS:
        return value if _WORD.fullmatch(value) else None
    length = _LENGTH.fullmatch(value)
    if not length:
        return None
    return value if abs(float(length[1])) <= _MAX_EM else None


def _extras(markdown: MarkdownIt) -> None:
    """Footnotes, task lists, pictures as links, headings below the page's own.

    No definitions of links ("[name]: address"): they are left out of what is shown, and
    a whole Chinese sentence without a space passes for an address.
    """
    markdown.disable("reference")
    markdown.use(footnote_plugin, inline=False)
    markdown.core.ruler.before("footnote_tail", "unused_notes", _unused_notes)
    markdown.core.ruler.after("block", "depth", _depth)
    markdown.core.ruler.push("headings", _headings)
    markdown.core.ruler.push("tasks", _tasks)
    markdown.core.ruler.push("links", _links)
    markdown.core.ruler.push("cells", _cells)
    for name, rule in {
        "image": _picture,
        "table_open": _table,
        "table_close": lambda *args: "</table></div>\n",
        "footnote_ref": lambda _self, tokens, place, *_rest: (
            f'<sup class="note">[{tokens[place].meta["id"] + 1}]</sup>'
        ),
        "footnote_block_open": lambda *args: '<hr><ol class="notes">\n',
        "footnote_block_close": lambda *args: "</ol>\n",
        "footnote_open": lambda *args: "<li>",
        "footnote_close": lambda *args: "</li>\n",
        "footnote_anchor": lambda *args: "",
    }.items():
        markdown.add_render_rule(name, rule)


def _depth(state: StateCore) -> None:
    """What is nested deeper than the parser goes, it would leave out without a word."""
    if any(token.level >= MAX_DEPTH - 1 for token in state.tokens):
        raise ValueError("nested too deep")


def _unused_notes(state: StateCore) -> None:
    """Footnotes that nothing refers to stay where they are: they, too, would be left out.
    So would a second one of the same name, and one inside another."""
    refs = state.env.get("footnotes", {}).get("refs", {})
    tokens, seen, moved = [], set(), list[bool]()
    for token in state.tokens:
        if token.type == "footnote_reference_open":
            label = token.meta["label"]
            moved.append(
                refs[f":{label}"] >= 0 and label not in seen and not any(moved)
            )
            seen.add(label)
            if not moved[-1]:
                tokens += _paragraph(f"[^{label}]:", token.level)
                continue
        elif token.type == "footnote_reference_close" and not moved.pop():
            continue
        tokens.append(token)
    state.tokens = tokens


def _paragraph(text: str, level: int) -> list[Token]:
    inline = Token("inline", "", 0, level=level + 1, content=text, block=True)
    inline.children = [Token("text", "", 0, content=text)]
    return [
        Token("paragraph_open", "p", 1, level=level, block=True),
        inline,
        Token("paragraph_close", "p", -1, level=level, block=True),
    ]


def _headings(state: StateCore) -> None:
    """From h3 on, as the page's own end at h2, and no level left out on the way down."""
    before = 2
    for token in state.tokens:
        if token.type == "heading_open":
            before = min(int(token.tag[1]) + 2, before + 1, 6)
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{before}"


def _tasks(state: StateCore) -> None:
    """- [ ] and - [x] as signs: a form control here would belong to the page's form."""
    for place, token in enumerate(state.tokens):
        if token.type != "inline" or place < 2 or not token.children:
            continue
        item, first = state.tokens[place - 2], token.children[0]
        box = re.match(r"\[([ xX])\] ", first.content)
        if item.type == "list_item_open" and first.type == "text" and box:
            sign = "☐" if box[1] == " " else "☑"
            first.content = f"{sign} {first.content[4:]}"
            item.attrSet("class", "task")


def _links(state: StateCore) -> None:
    """A link without text shows its address; a picture inside a link is no second one."""
    for token in state.tokens:
        link: Token | None = None
        children = token.children or []
        for place, child in enumerate(children):
            if child.type == "link_open":
                link = child
                if children[place + 1].type == "link_close":
                    child.meta["text"] = str(child.attrs.get("href", ""))
            elif child.type == "link_close":
                link = None
            elif child.type == "image":
                child.meta["linked"] = link is not None


def _cells(state: StateCore) -> None:
    for token in state.tokens:
        if token.type in ("th_open", "td_open") and "style" in token.attrs:
            side = str(token.attrs.pop("style")).rpartition(":")[2]
            if side in ("right", "center"):
                token.attrSet("class", f"to-{side}")


def _table(self: Any, tokens: Any, place: int, options: Any, env: Any) -> str:
    """In a box to scroll in, which begins on the side its text begins."""
    direction = tokens[place].attrs.get("dir")
    box = f' dir="{direction}"' if direction else ""
    return f'<div class="scroll"{box}>{self.renderToken(tokens, place, options, env)}'


def _link(self: Any, tokens: Any, place: int, options: Any, env: Any) -> str:
    opened = self.renderToken(tokens, place, options, env)
    return opened + html.escape(tokens[place].meta.get("text", ""))


def _picture(self: Any, tokens: Any, place: int, options: Any, env: Any) -> str:
    """A link to it: showing it would tell a stranger's server who reads what when."""
    token = tokens[place]
    address = str(token.attrs.get("src", ""))
    text = self.renderInlineAsText(token.children or [], options, env).strip()
    shown = html.escape(f"🖼 {text or address}")
    if token.meta.get("linked"):
        return shown
    return f'<a class="picture" href="{html.escape(address)}">{shown}</a>'


# `breaks`: a chat model's single newline is meant as one.
_markdown = (
    MarkdownIt(
        "js-default", {"breaks": True, "linkify": False, "maxNesting": MAX_DEPTH}
    )
    .use(formulas.formulas)
    .use(_extras)
    .use(scripts.scripts)
)
for _name, _rule in {
    "link_open": _link,
    "fence": highlighting.fence,
    "code_block": highlighting.fence,
}.items():
    _markdown.add_render_rule(_name, _rule)

_cleaner = nh3.Cleaner(
    tags=TAGS,
    attributes={tag: names - {"rel", "target"} for tag, names in ATTRIBUTES.items()},
    allowed_classes=CLASSES,
    attribute_filter=_sane,
    url_schemes={"http", "https", "mailto"},
    # An answer knows no pages of ours to link to.
    url_relative="deny",
    link_rel="nofollow noopener noreferrer",
    # Reading a source must not take the pair from the desk.
    set_tag_attribute_values={"a": {"target": "_blank"}},
)
