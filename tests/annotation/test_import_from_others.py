"""What docs/managers.md says of other tools' exports, done as it says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

from annotation.models import PreferencePair
from tests.annotation.pair_rows import load
from tests.factories import make_project

pytestmark = pytest.mark.django_db

TASK = {"prompt": "法国的首都是？", "answer1": "巴黎。", "answer2": "我不知道。"}


def annotated(selected: str, kind: str = "pairwise", **fields) -> dict:
    value = {"selected": selected}
    result = {"value": value, "from_name": "pw", "to_name": "a,b", "type": kind}
    return {"id": 1, "was_cancelled": False, "result": [result], **fields}


def test_what_label_studio_exports_comes_in_the_right_way_round(tmp_path):
    managers = (Path(settings.BASE_DIR) / "docs" / "managers.md").read_text()
    (script,) = re.findall(r"```python\n(.*?pairwise.*?)```", managers, re.S)
    other = {**TASK, "prompt": "And of Italy?"}
    none = annotated("left", was_cancelled=True)
    rated = annotated("left", kind="rating")
    tasks = [
        {"id": 1, "data": TASK, "annotations": [annotated("left"), none]},
        {"id": 2, "data": other, "annotations": [annotated("right"), rated]},
    ]
    (tmp_path / "project.json").write_text(json.dumps(tasks))
    made = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    load(make_project(), made.stdout.encode())
    pairs = PreferencePair.objects.order_by("id")
    assert [(pair.chosen.text, pair.rejected.text) for pair in pairs] == [
        (TASK["answer1"], TASK["answer2"]),
        (TASK["answer2"], TASK["answer1"]),
    ]
