"""What models may write to act or to fetch, and a look at what came out."""

import re
from html.parser import HTMLParser

from annotation.rendering import markdown

PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![track](https://evil.example/x.png)",
    "![x](javascript:alert(1))",
    "[click](javascript:alert(1))",
    "[click](data:text/html;base64,PHNjcmlwdD4=)",
    "[click](//evil.example)",
    "[click](/projects/demo/)",
    "<a href='javascript:alert(1)'>x</a>",
    "<style>*{display:none}</style>",
    "<form action=/><button hx-post=/leases/>A is better</button></form>",
    "<div hx-get='/x' hx-trigger='load'>",
    "<svg/onload=alert(1)>",
    "`<script>`\n\n```html\n<script>alert(1)</script>\n```",
    '```"><img src=x onerror=alert(1)>\nx\n```',
    '[x](https://a.example "onmouseover=alert(1)")',
    "<https://a.example/\"onclick='alert(1)>",
    "| a |\n|:-:|\n| <b onclick=alert(1)>x |",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    r"$\text{<script>alert(1)</script>}$",
    r"$\text{</mtext></math><img src=x onerror=alert(1)>}$",
    r"$\href{javascript:alert(1)}{x}$ $\url{javascript:x}$",
    r"$\style{position:fixed}{x} \class{verdict}{x} \cssId{pair}{x}$",
    r"$\color{red;background:url(//evil.example)}{x}$",
    r"$\includegraphics{https://evil.example/x.png}$",
    r"$$\def\a{\a\a}\a \newcommand{\b}{\b}\b \let\c\d$$",
    r"$$\begin{align}\label{\"onclick=alert(1)}x\ref{x}\tag{<b>}\end{align}$$",
    r"$<annotation-xml encoding='text/html'><p onclick=alert(1)>$",
    r"\(\mspace{-900em}\rule{900em}{900em}\hspace{-900em}\raisebox{900em}{x}\kern-900em\)",
    r"$\text{<style>*{display:none}</style><mglyph><svg>}$",
    "- [ ] <input onfocus=alert(1) autofocus>",
    "x[^1]\n\n[^1]: <script>alert(1)</script>",
    '[^"onclick=alert(1)]\n\n[^"onclick=alert(1)]: x',
]


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def parsed(html):
    tags = Tags()
    tags.feed(html)
    return tags


def check(html):
    for tag, attributes in parsed(html).found:
        assert tag in markdown.TAGS, tag
        allowed = markdown.ATTRIBUTES.get(tag, set())
        assert set(attributes) - {"class"} <= allowed, (tag, attributes)
        names = set((attributes.get("class") or "").split())
        assert names <= markdown.CLASSES.get(tag, set()), (tag, attributes)
        if tag == "a":
            assert re.match(r"(https?|mailto):", attributes.get("href", "https:"))
            assert attributes["rel"] == "nofollow noopener noreferrer"
        assert "900em" not in attributes.values()
