"""What every page of the site shares: its frame's context, and text made safe to show.

Used by the views of annotation and of training; decides nothing.
"""

import json
import re
from functools import lru_cache, partial
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import SafeString, mark_safe

from annotation.adjudicating import how_many
from annotation.files.messages import plain
from annotation.models import Completion
from annotation.rendering import RENDERER_VERSION, render_markdown


def page(
    request: HttpRequest,
    template: str,
    context: dict[str, Any] | None = None,
    *,
    status: int = 200,
) -> HttpResponse:
    """Render with the project and role that access found, which the frame shows."""
    shared = {
        "project": getattr(request, "project", None),
        "role": getattr(request, "role", None),
    }
    if shared["project"] is not None:
        # Counted where it is first shown, once: annotators' pages never ask.
        shared["in_review"] = SimpleLazyObject(partial(how_many, shared["project"]))
    return render(request, template, shared | (context or {}), status=status)


@lru_cache(maxsize=512)
def safe_html(text: str) -> SafeString:
    """Markdown from outside (prompts, guidelines), rendered once a process."""
    return mark_safe(render_markdown(text))


def completion_html(completion: Completion) -> SafeString:
    """The answer as it was rendered and cleaned when its row was made.

    Anew where an older renderer did that, so that no page mixes the two.
    """
    if completion.html and completion.html_version == RENDERER_VERSION:
        return mark_safe(completion.html)
    return safe_html(completion.text)


def message_turns(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Chat messages for a template: role and safe html, whatever content they carry."""
    return [
        {"role": str(message.get("role", "")), "html": safe_html(_shown(message))}
        for message in messages
    ]


def prompt_parts(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """A prompt as a desk shows it: `system`, all system messages as one text; `question`,
    the last turn, None where there is none; `earlier`, the turns before it."""
    turns = message_turns(messages)
    systems = [turn["html"] for turn in turns if turn["role"] == "system"]
    said = [turn for turn in turns if turn["role"] != "system"]
    return {
        "system": SafeString("".join(systems)),
        "earlier": said[:-1],
        "question": said[-1] if said else None,
    }


def _shown(message: dict[str, Any]) -> str:
    calls = message.get("tool_calls") or message.get("function_call")
    # Else a turn that only calls a tool would be shown as an empty one.
    return plain(message) + (f"\n\n{_as_code(calls)}" if calls else "")


def _as_code(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=2)
    fence = "`" * (1 + max([2, *map(len, re.findall("`+", text))]))
    return f"{fence}json\n{text}\n{fence}"
