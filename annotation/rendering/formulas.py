r"""LaTeX in Markdown as MathML: $…$, $$…$$, \(…\), \[…\] and \begin{align}….

`$` follows Pandoc: no space inside the dollars, no digit after the closing one, so that
"$5 and $10" stays what it is. math-core writes the MathML; what it can't read is shown
as it was written. Its inline styles, which the site's CSP forbids, become classes.
Left out: macros defined in the text, \ref, and formulas inside \text{}.
"""

import re
from bisect import bisect_left
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from math_core import LatexError, LatexToMathML

# math-core recurses natively and a stack that overflows ends the whole process. 8 MiB
# held 4,000 of the hungriest nested token, one character each.
MAX_FORMULA = 3_000
MAX_NESTING = 60
MAX_LINES = 200

_PAIRS = (("$$", "$$", True), (r"\[", r"\]", True), (r"\(", r"\)", False))
_ENVIRONMENT = re.compile(r"\\begin\{((?:align|equation|gather|multline)\*?)\}")
# "$5 million for 3 k$": an amount and then words.
_PRICE = re.compile(r"\d[\d.,]*[A-Za-z]{0,2}[,;:)]?\s+[^\W\d_]{2,}")
_LETTER_OR_DIGIT = re.compile(r"[A-Za-z0-9]")

# Each try would number its lines from (1) again, so only what has a \tag keeps numbers.
_UNNUMBERED = {
    **dict.fromkeys(("align", "align*", "split"), "aligned"),
    **dict.fromkeys(("gather", "gather*", "multline", "multline*"), "gathered"),
}
_CLASSES = {
    "text-align:right": "m-right",
    "text-align:left": "m-left",
    "padding-right:0": "m-no-right",
    "padding-left:0": "m-no-left",
    "padding-left:1em": "m-apart",
    "border-left:0.05em solid currentcolor": "m-line-left",
    "border-right:0.05em solid currentcolor": "m-line-right",
    "border-top:0.05em solid currentcolor": "m-line-above",
    "border-left:0.05em dashed currentcolor": "m-line-left",
    "border-right:0.05em dashed currentcolor": "m-line-right",
    "border-top:0.05em dashed currentcolor": "m-line-above",
    "width:50%": "m-half",
    "width:100%": "m-full",
}
CLASSES = set(_CLASSES.values())

_TAG = re.compile(r"<m[a-z]+ [^<>]*>")
_STYLE = re.compile(r'(?<= )style="([^"]*)"')

_converter = LatexToMathML(
    fancy_error=False, allow_unreliable_rendering=True, max_expansions=0
)


def formulas(markdown: MarkdownIt) -> None:
    """The plugin for markdown-it."""
    markdown.inline.ruler.before("escape", "formula", _inline)
    markdown.block.ruler.before(
        "fence", "formula", _block, {"alt": ["paragraph", "blockquote", "list"]}
    )
    for name in ("formula", "formula_block"):
        markdown.add_render_rule(name, _rendered)


def formula_html(source: str, *, display: bool, written: str) -> str:
    """MathML of the LaTeX `source`; where it can't be read, the text as `written`."""
    mathml = _mathml(source, display)
    if mathml is None:
        return f'<code class="tex">{escape(written)}</code>'
    mathml = _TAG.sub(lambda tag: _STYLE.sub(_as_class, tag[0]), mathml)
    if display:
        return f'<span class="scroll formula">{mathml}</span>'
    # A formula can't break across lines; a long one scrolls instead.
    return f'<span class="scroll">{mathml}</span>' if len(source) > 60 else mathml


def _mathml(source: str, display: bool) -> str | None:
    if len(source) > MAX_FORMULA or _nesting(source) > MAX_NESTING:
        return None
    try:
        return _converter.convert_with_local_state(
            _plainer(source), displaystyle=display
        )
    except LatexError:
        return None
    except BaseException as error:
        # A panic in Rust arrives as an exception of this name that no module exports.
        if type(error).__name__ != "PanicException":
            raise
        return None


def _plainer(source: str) -> str:
    r"""The same with environments that number nothing, unless there is a \tag."""
    if r"\tag" in source:
        if r"\begin" not in source:
            return rf"\begin{{equation}}{source}\end{{equation}}"
        return source
    source = re.sub(
        r"\\(?:begin|end)\{equation\*?\}|\\(?:label\{[^{}]*\}|notag|nonumber)",
        " ",
        source,
    )
    return re.sub(
        r"\\(begin|end)\{(\w+\*?)\}",
        lambda part: rf"\{part[1]}{{{_UNNUMBERED.get(part[2], part[2])}}}",
        source,
    )


def _nesting(source: str) -> int:
    deepest = depth = 0
    for bracket in re.findall(r"[{}]", source):
        depth += 1 if bracket == "{" else -1
        deepest = max(deepest, depth)
    return deepest


def _as_class(style: re.Match[str]) -> str:
    said = (part.replace(": ", ":").strip() for part in style[1].split(";"))
    names = dict.fromkeys(_CLASSES[part] for part in said if part in _CLASSES)
    return f'class="{" ".join(names)}"' if names else ""


def _inline(state: StateInline, silent: bool) -> bool:
    src, start = state.src, state.pos
    if src[start] not in "$\\":
        return False
    opening, closing, display = next(
        (pair for pair in _PAIRS if src.startswith(pair[0], start)), ("$", "$", False)
    )
    if not src.startswith(opening, start):
        return False
    begin = start + len(opening)
    end = _closing(src, closing, begin, min(state.posMax, begin + MAX_FORMULA))
    content = src[begin:end]
    if end < 0 or not content.strip():
        return False
    after = src[end + len(closing) : end + len(closing) + 1]
    if opening == "$" and not _dollars_mean_it(src[start - 1 : start], content, after):
        return False
    # "\[label\](address)" is a link whose brackets somebody escaped.
    if opening == r"\[" and after == "(":
        return False
    if not silent:
        token = state.push("formula", "math", 0)
        token.content, token.hidden = content, False
        token.meta = {"display": display, "written": f"{opening}{content}{closing}"}
    state.pos = end + len(closing)
    return True


def _dollars_mean_it(before: str, content: str, after: str) -> bool:
    return not (
        content[0].isspace()
        or content[-1].isspace()
        or after.isdigit()
        or _LETTER_OR_DIGIT.match(before)
        or _PRICE.match(content)
    )


def _closing(src: str, closing: str, begin: int, limit: int) -> int:
    """Where the formula ends, -1 where it doesn't within the limit."""
    end = src.find(closing, begin, limit)
    while end >= 0 and _is_escaped(src, end):
        end = src.find(closing, end + 1, limit)
    return end


def _is_escaped(src: str, place: int) -> bool:
    before = src[max(0, place - 20) : place]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _block(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    if state.is_code_block(first):
        return False
    start = state.bMarks[first] + state.tShift[first]
    found = _opening(state.src[start : min(state.eMarks[first], start + 40)])
    if not found:
        return False
    opening, closing = found
    begin = start + len(opening)
    limit = min(len(state.src), begin + MAX_FORMULA)
    end = _closing(state.src, closing, begin, limit)
    if end < 0:
        return False
    # The line that holds the end; a sentence that goes on after it is the inline rule's.
    line = bisect_left(state.eMarks, end, first)
    rest = state.src[end + len(closing) : state.eMarks[line]].strip()
    if line >= last or line - first > MAX_LINES or rest not in ("", ".", ",", ";"):
        return False
    for between in range(first + 1, line + 1):
        if state.sCount[between] < state.blkIndent:
            return False
    if silent:
        return True
    content = "\n".join(
        state.src[
            max(begin, state.bMarks[number] + state.tShift[number]) : min(
                end, state.eMarks[number]
            )
        ]
        for number in range(first, line + 1)
    )
    token = state.push("formula_block", "math", 0)
    written = f"{opening}{content}{closing}{rest}"
    if opening.startswith(r"\begin"):
        content = written
    token.content, token.block, token.map = content, True, [first, line + 1]
    token.meta = {"display": True, "written": written}
    state.line = line + 1
    return True


def _opening(line: str) -> tuple[str, str] | None:
    environment = _ENVIRONMENT.match(line)
    if environment:
        return environment[0], rf"\end{{{environment[1]}}}"
    return next((pair[:2] for pair in _PAIRS[:2] if line.startswith(pair[0])), None)


def _rendered(
    renderer: Any, tokens: Any, place: int, options: Any, env: dict[str, Any]
) -> str:
    token = tokens[place]
    html = formula_html(token.content.strip(), **token.meta)
    return f"<p>{html}</p>\n" if token.block else html
