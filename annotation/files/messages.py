"""Chat messages as pairs may hold them: any role that the formats know, tools included."""

import math
from typing import Any

from django.utils.translation import gettext as _

from annotation import texts
from annotation.files.faults import BadRow, Messages, shown

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MAX_MESSAGES = 200
MAX_CHARS = 100_000
"""Of one text, a prompt's or an answer's."""
MAX_NAME_CHARS = 200


def checked(place: str, value: Any, roles: tuple[str, ...] = ROLES) -> Messages:
    """A list of messages, each {"role", "content", …} of one of `roles`. Raises BadRow."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        raise BadRow(
            _("“%(name)s” must be a text or a list of 1 to %(most)d messages")
            % {"name": place, "most": MAX_MESSAGES}
        )
    for index, message in enumerate(value):
        _check_message(f"{place}[{index}]", message, roles)
    return value


def _check_message(place: str, message: Any, roles: tuple[str, ...]) -> None:
    if not isinstance(message, dict):
        raise BadRow(
            _("%(place)s is not an object; write {“role”: “user”, “content”: “…”}")
            % {"place": place}
        )
    role, content = message.get("role"), message.get("content")
    if role not in roles:
        raise BadRow(
            _("%(place)s.role is “%(role)s”; use %(known)s")
            % {"place": place, "role": shown(str(role))[:40], "known": ", ".join(roles)}
        )
    if content is None and (message.get("tool_calls") or message.get("function_call")):
        return
    if isinstance(content, list) and content:
        if all(
            isinstance(part, dict)
            and part.get("type") == "text"
            and isinstance(part.get("text"), str)
            for part in content
        ):
            return
        raise BadRow(
            _(
                "%(place)s.content holds something other than text; only text is trained on"
            )
            % {"place": place}
        )
    if not isinstance(content, str):
        raise BadRow(_("%(place)s.content must be a text") % {"place": place})


def turn(role: str, text: str) -> Messages:
    """One message, as a list."""
    return [{"role": role, "content": text}]


def asked(place: str, messages: Messages) -> Messages:
    """The same as what was asked: it ends with the user or a tool. Raises BadRow."""
    last = messages[-1]
    if last["role"] not in ("user", "tool", "function"):
        raise BadRow(
            _(
                "“%(place)s” ends with a message of role “%(role)s”; a prompt ends with"
                " the user's or a tool's"
            )
            % {"place": place, "role": last["role"]}
        )
    if last["role"] == "user" and not plain(last).strip():
        raise BadRow(_("“%(place)s” is empty; write the question") % {"place": place})
    return messages


def answered(place: str, messages: Messages) -> Messages:
    """The same as an answer: of the assistant and its tools. Raises BadRow."""
    roles = [message["role"] for message in messages]
    if "assistant" not in roles or set(roles) - {"assistant", "tool", "function"}:
        raise BadRow(
            _(
                "“%(place)s” must be messages of the assistant (and tools), not of %(roles)s"
            )
            % {"place": place, "roles": ", ".join(sorted(set(roles)))}
        )
    return messages


def plain(message: dict[str, Any]) -> str:
    """A message's text, its parts set off as pages show them; empty where it only calls
    tools. The `text` of imported answers is made by it, so it stays as it is."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n\n".join(
            str(part.get("text", "")) for part in content if isinstance(part, dict)
        )
    return "" if content is None else str(content)


def is_plain(messages: Messages) -> bool:
    """Whether each is a role and one text, as every format can say."""
    return all(
        set(message) == {"role", "content"} and isinstance(message["content"], str)
        for message in messages
    )


def check_storable(value: Any, place: str = "") -> None:
    """Raise BadRow for what a database can't keep: NUL, half a character, infinity."""
    if isinstance(value, str):
        if problem := texts.problem(value, MAX_CHARS):
            raise BadRow(
                _("“%(field)s” %(what)s")
                % {"field": shown(place)[:60], "what": problem}
            )
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise BadRow(
                _("“%(field)s” is not a number that can be stored; remove it")
                % {"field": shown(place)[:60]}
            )
    elif isinstance(value, dict):
        for name, inner in value.items():
            if len(name) > MAX_NAME_CHARS or texts.problem(name):
                raise BadRow(
                    _("“%(field)s” is not a name that can be stored; rename it")
                    % {"field": shown(name)[:60]}
                )
            check_storable(inner, f"{place}.{name}" if place else name)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            check_storable(inner, f"{place}[{index}]")
