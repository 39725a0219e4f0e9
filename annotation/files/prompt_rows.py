"""A row of a file as the messages of a prompt, or what is wrong with it."""

from typing import Any

from django.utils.translation import gettext as _

from annotation import texts
from annotation.files import messages as chats
from annotation.files.faults import (
    BadRow,
    Messages,
    Row,
    refuse_python,
    refuse_wrapped,
    shown,
)

ROLES = ("system", "user", "assistant")


def prompt_of(row: Row) -> Messages:
    """The chat messages that a row means; raises BadRow naming field and fix."""
    given = [name for name in ("prompt", "messages") if row.get(name) is not None]
    if not given:
        refuse_wrapped(row)
        raise BadRow(_("has no “prompt” (a text) and no “messages” (a list); add one"))
    # A cell that is empty in a row of a table says nothing of that row.
    given = [name for name in given if row[name] != ""] or given[:1]
    if len(given) == 2:
        raise BadRow(
            _(
                "has both “prompt” and “messages”; keep one of them, or choose it under"
                " “Which column is which”"
            )
        )
    name, value = given[0], row[given[0]]
    refuse_python(row, name)
    if isinstance(value, str):
        if name == "messages":
            raise BadRow(_("“messages” is a text; make it a list, or name it “prompt”"))
        return [{"role": "user", "content": _content("prompt", value)}]
    messages = [
        _message(f"{name}[{i}]", one, i)
        for i, one in enumerate(chats.checked(name, value, ROLES))
    ]
    if messages[-1]["role"] != "user":
        raise BadRow(
            _("the last message is of role “%(role)s”; a prompt ends with the user's")
            % {"role": messages[-1]["role"]}
        )
    return messages


def _message(place: str, message: dict[str, Any], index: int) -> dict[str, str]:
    role = message["role"]
    if role == "system" and index > 0:
        raise BadRow(
            _("%(place)s.role is “system”; only the first message may be")
            % {"place": place}
        )
    unknown = sorted(set(message) - {"role", "content"})
    if unknown:
        raise BadRow(
            _("%(place)s has “%(name)s”, which a prompt can't hold; remove it")
            % {"place": place, "name": shown(unknown[0])[:40]}
        )
    content = message["content"]
    if not isinstance(content, str):
        raise BadRow(_("%(place)s.content must be a text") % {"place": place})
    return {"role": role, "content": _content(f"{place}.content", content)}


def _content(place: str, text: str) -> str:
    if not text.strip():
        raise BadRow(_("“%(place)s” is empty; write the question") % {"place": place})
    problem = texts.problem(text, chats.MAX_CHARS)
    if problem:
        raise BadRow(_("“%(field)s” %(what)s") % {"field": place, "what": problem})
    return text
