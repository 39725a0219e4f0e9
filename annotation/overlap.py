"""How many judgments a new comparison is to get: all that are asked for, or one.

The share of comparisons that are judged several times is drawn by a hash of what is
compared, so the same comparison is drawn again on any machine, and nobody can tell from
what stands on the page.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from annotation import texts
from annotation.project_settings import ProjectSettings


def judgments_wanted(
    settings: ProjectSettings, messages: Any, answers: Sequence[str]
) -> int:
    """The quota of a comparison of these answers (in any order) to this prompt."""
    if settings.quota > 1 and is_drawn(messages, answers, settings.overlap_share):
        return settings.quota
    return 1


def is_drawn(messages: Any, answers: Sequence[str], share: float) -> bool:
    """Whether the comparison is one of `share` (0 to 1) of all."""
    # A salt of its own: prompts are held out by a hash, too, and neither draw may
    # follow from the other.
    content = texts.canonical(["overlap", messages, sorted(answers)])
    digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
