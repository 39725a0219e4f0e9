"""Scripts other than Latin: direction, language, and emphasis beside Chinese marks.

Every block gets its own direction, by its letters outside code and formulas, so that
"Python هي لغة" reads from the right although it begins with a Latin word, which HTML's
dir=auto would get wrong. Code and formulas are always left to right (static/prose.css).
"""

import re
from types import MethodType
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline, emphasis
from markdown_it.rules_inline.state_inline import Scanned
from markdown_it.token import Token

RTL_SHARE = 0.4
"""From this share of right-to-left letters on a block reads from the right, as in
Google Closure's estimateDirection (which counts words)."""

_RTL = re.compile(
    "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
_LETTER = re.compile(r"[^\W\d_]")
_KANA = re.compile("[\u3041-\u30ff\uff66-\uff9d]")
_HANGUL = re.compile("[\uac00-\ud7a3\u1100-\u11ff]")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")
_CJK = re.compile(
    "[\u1100-\u11ff\u2e80-\u33ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff"
    "\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003134f]"
)
_BLOCKS = {
    *("paragraph", "heading", "th", "td", "list_item"),
    *("blockquote", "bullet_list", "ordered_list", "table"),
}


def scripts(markdown: MarkdownIt) -> None:
    """The plugin for markdown-it."""
    markdown.core.ruler.push("directions", _directions)
    markdown.core.ruler.push("languages", _languages)
    markdown.inline.ruler.at("emphasis", _emphasis)


def _text(inline: Token) -> str:
    children = inline.children or []
    return "".join(child.content for child in children if child.type == "text")


def _is_block(token: Token) -> bool:
    return token.type.removesuffix("_open").removesuffix("_close") in _BLOCKS


def _directions(state: StateCore) -> None:
    if not _RTL.search(state.src):
        return
    # [token, right-to-left letters, all letters] of the blocks around the place.
    around: list[list[Any]] = []
    counted = {}
    for token in state.tokens:
        if token.type == "inline" and around:
            text = _text(token)
            around[-1][1] += len(_RTL.findall(text))
            around[-1][2] += len(_LETTER.findall(text))
        elif _is_block(token) and token.nesting == 1:
            around.append([token, 0, 0])
        elif _is_block(token) and token.nesting == -1:
            block, rtl, letters = around.pop()
            counted[id(block)] = (rtl, letters)
            if around:
                around[-1][1] += rtl
                around[-1][2] += letters
    inherited = ["ltr"]
    for token in state.tokens:
        if not _is_block(token):
            continue
        if token.nesting == -1:
            inherited.pop()
            continue
        rtl, letters = counted[id(token)]
        own = inherited[-1]
        if letters:
            own = "rtl" if rtl >= RTL_SHARE * letters else "ltr"
        # A tight list's paragraphs are not written: there its item has said it.
        if own != inherited[-1] and not token.hidden:
            token.attrSet("dir", own)
        inherited.append(own)


def _languages(state: StateCore) -> None:
    """`lang` of East Asian blocks: fonts, line breaks and voices differ by it."""
    if not _CJK.search(state.src):
        return
    kana, han = len(_KANA.findall(state.src)), len(_HAN.findall(state.src))
    of_han = "ja" if kana > 0.1 * (kana + han) else "zh"
    for place, token in enumerate(state.tokens):
        if token.type != "inline" or not place:
            continue
        text = _text(token)
        language = "ko" if _HANGUL.search(text) else of_han
        if not _CJK.search(text):
            continue
        block = state.tokens[place - 1]
        if block.hidden and place > 1:
            block = state.tokens[place - 2]
        if block.nesting == 1 and _is_block(block):
            block.attrSet("lang", language)


def _emphasis(state: StateInline, silent: bool) -> bool:
    # On the instance: the library's own rule asks its state.
    if "scanDelims" not in vars(state):
        state.scanDelims = MethodType(_scan_delimiters, state)  # type: ignore[method-assign]
    return emphasis.tokenize(state, silent)


def _scan_delimiters(state: StateInline, start: int, splits_words: bool) -> Scanned:
    """CommonMark's rule, but East Asian neighbours need no space around punctuation.

    "**“好”**的" is bold then, as its writer meant. After the amendment of
    github.com/tats-u/markdown-cjk-friendly.
    """
    scanned = StateInline.scanDelims(state, start, splits_words)
    if state.src[start] != "*":
        return scanned
    end = start + scanned.length
    before, after = state.src[start - 1 : start], state.src[end : end + 1]
    if not before or not after or before.isspace() or after.isspace():
        return scanned
    if not _CJK.match(before) and not _CJK.match(after):
        return scanned
    return Scanned(True, True, scanned.length)
