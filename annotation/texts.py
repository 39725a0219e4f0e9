"""What a text must hold to be stored: no NUL, no half surrogate, not too long.

PostgreSQL refuses NUL and UTF-8 refuses lone surrogates; without this check a client
that sends either would get a server error.
"""

import hashlib
import json
import re
from typing import Any

from django.utils.translation import gettext as _

_SURROGATE = re.compile("[\ud800-\udfff]")


def problem(text: str, longest: int | None = None) -> str:
    """What is wrong with the text, as the end of a sentence; empty where nothing is."""
    if "\0" in text:
        return _("contains a NUL character; remove it")
    if _SURROGATE.search(text):
        return _("contains half a surrogate pair; write the character in UTF-8")
    if longest is not None and len(text) > longest:
        return _("is %(length)d characters long; at most %(longest)d are accepted") % {
            "length": len(text),
            "longest": longest,
        }
    return ""


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(
        value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str
    )


def sha256_of(value: Any) -> str:
    """Hash of the canonical JSON; anything that JSON can hold has one."""
    # surrogatepass: a body is hashed before it is checked.
    return hashlib.sha256(canonical(value).encode("utf-8", "surrogatepass")).hexdigest()
