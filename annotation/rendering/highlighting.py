"""Code blocks with their words classed by kind, where the block names its language.

Pygments' lexers, but not its formatter: many of its kinds share one of ours, which keeps
the HTML small and both palettes (static/prose.css) short. A language is never guessed.
"""

import re
from html import escape
from itertools import groupby
from typing import Any

from pygments.lexers import get_lexer_by_name
from pygments.token import (
    Comment,
    Error,
    Generic,
    Keyword,
    Literal,
    Name,
    Number,
    Operator,
    String,
    Token,
    _TokenType,
)
from pygments.util import ClassNotFound

# Some of Pygments' expressions take time that grows with the square of a run of broken
# or blank lines. The worst of these languages take 2 s for 10,000 such characters,
# hence a bound on the sum of squares; those not listed were not measured and stay plain.
MAX_WORK = 8_000**2
LANGUAGES = {
    *("python", "pycon", "javascript", "typescript", "jsx", "tsx", "java", "kotlin"),
    *("scala", "c", "cpp", "csharp", "go"),
    *("rust", "swift", "objective-c", "ruby", "php"),
    *("perl", "lua", "splus", "julia", "matlab"),
    *("sql", "bash", "console", "powershell"),
    *("html", "xml", "css", "scss", "json", "yaml", "toml", "ini", "docker", "make"),
    *("diff", "haskell", "elixir", "erlang", "clojure", "ocaml", "fsharp", "dart"),
    *("graphql", "tex", "nginx", "gas", "verilog"),
    *("groovy", "protobuf", "cmake", "zig"),
    *("nixos", "solidity", "fortran", "delphi", "vb.net", "batch", "wgsl"),
}
_WEIGHTS = {"csharp": 2.5, "java": 1.3}
"""How much longer a text seems than it is, by the worst of each."""
MAX_BLANK = 60

_KINDS = {
    Comment.Preproc: "h-meta",
    Comment: "h-comment",
    Keyword.Constant: "h-number",
    Keyword: "h-keyword",
    Operator.Word: "h-keyword",
    Name.Function: "h-name",
    Name.Class: "h-name",
    Name.Tag: "h-keyword",
    Name.Attribute: "h-name",
    Name.Decorator: "h-meta",
    Name.Builtin: "h-builtin",
    Name.Exception: "h-builtin",
    Name.Variable: "h-builtin",
    String: "h-string",
    Number: "h-number",
    Literal: "h-number",
    Generic.Deleted: "h-gone",
    Generic.Inserted: "h-new",
    Generic.Heading: "h-meta",
    Generic.Subheading: "h-meta",
    Generic.Prompt: "h-comment",
}
CLASSES = set(_KINDS.values())

_LANGUAGE = re.compile(r"\{?\.?([A-Za-z0-9+#._-]{1,24})")


def fence(
    renderer: Any, tokens: Any, place: int, options: Any, env: dict[str, Any]
) -> str:
    """The render rule of fenced and of indented code."""
    code = tokens[place].content
    named = _LANGUAGE.match(tokens[place].info or "")
    language = named[1] if named else ""
    label = f'<span class="code-name">{escape(language)}</span>'
    highlighted = _highlighted(code, language.lower(), env)
    return (
        f'<div class="code">{label}<pre dir="ltr"><code>'
        f"{escape(code) if highlighted is None else highlighted}</code></pre></div>\n"
    )


def _highlighted(code: str, language: str, env: dict[str, Any]) -> str | None:
    if not language or "\n" * MAX_BLANK in re.sub(r"[^\S\n]+", "", code):
        return None
    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None
    name = lexer.aliases[0]
    work = env.get("work", 0) + (_WEIGHTS.get(name, 1.0) * len(code)) ** 2
    if name not in LANGUAGES or work > MAX_WORK:
        return None
    env["work"] = work
    spans = []
    tokens = ((_kind(kind), text) for kind, text in lexer.get_tokens(code))
    for kind, same in groupby(tokens, key=lambda token: token[0]):
        text = escape("".join(text for _kind, text in same))
        spans.append(f'<span class="{kind}">{text}</span>' if kind else text)
    return "".join(spans)


def _kind(kind: _TokenType) -> str:
    """The class of a Pygments kind or of the nearest kind above it; often none."""
    while kind is not Token and kind is not Error:
        if kind in _KINDS:
            return _KINDS[kind]
        kind = kind.parent
    return ""
