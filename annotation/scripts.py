"""Which script a text is mainly written in: a stand-in for its language. Pure.

Scripts are told apart without a model and without a mistake; languages that share one
(English and French) are not, and count as alike. Code and addresses are left out: they
are Latin letters in every language.
"""

import re
from collections import Counter

LATIN, HAN = "latin", "han"

_RANGES = {
    LATIN: "a-zA-Z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff",
    HAN: "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f",
    "kana": "\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9d",
    "hangul": "\uac00-\ud7a3\u1100-\u11ff\u3130-\u318f",
    "cyrillic": "\u0400-\u052f",
    "greek": "\u0370-\u03ff\u1f00-\u1fff",
    "arabic": "\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff",
    "hebrew": "\u0590-\u05ff",
    "devanagari": "\u0900-\u097f",
    "bengali": "\u0980-\u09ff",
    "tamil": "\u0b80-\u0bff",
    "thai": "\u0e00-\u0e7f",
    "georgian": "\u10a0-\u10ff",
    "armenian": "\u0530-\u058f",
}
NAMES = tuple(_RANGES)

_BY_SIGN = (HAN, "kana", "hangul", "thai")
"""Written without spaces, or a syllable a sign: one sign says about as much as a word
does elsewhere."""

_UNITS = re.compile(
    "|".join(
        f"(?P<{name}>[{signs}]{'' if name in _BY_SIGN else '+'})"
        for name, signs in _RANGES.items()
    )
)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)

LONGEST = 4000
"""Characters looked at: the script of a text does not change after its first pages."""

KANA_SHARE = 0.1
"""Japanese is mostly Han signs, with kana between them; Chinese has none."""


def main_script(text: str) -> str:
    """One of NAMES; "" where the text has no letters but code."""
    plain = _CODE.sub(" ", text[:LONGEST])
    units = Counter(match.lastgroup for match in _UNITS.finditer(plain))
    if units["kana"] > KANA_SHARE * units[HAN]:
        units["kana"] += units.pop(HAN, 0)
    if not units:
        return ""
    # Of equally many the first in NAMES: the same answer every time.
    return max(NAMES, key=lambda name: (units[name], -NAMES.index(name)))
