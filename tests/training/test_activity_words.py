"""What the trainer is at, as the page of a round says it."""

import re
from pathlib import Path

import training.dpo
from training.dpo.train import METHODS
from training.templatetags.round_words import activity_words

SOURCES = Path(training.dpo.__file__).parent.glob("*.py")


def test_every_phase_that_the_trainer_names_has_words():
    phases = {method.status for method in METHODS.values()} | {"done"}
    for path in SOURCES:
        phases |= set(re.findall(r"status\.phase\(\s*\"(\w+)\"", path.read_text()))
    assert {"loading", "reading", "reference", "measuring", "scoring"} <= phases
    for phase in phases:
        assert activity_words({"phase": phase}) != phase
