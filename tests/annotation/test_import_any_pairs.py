"""Pairs from files that hypothesis makes up: any row comes back, no file breaks the import."""

import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotation.errors import ImportRefused
from annotation.export_rows import pair_table
from annotation.files import columnar
from annotation.files.columns import PAIRS
from annotation.files.lines import Unpacked
from annotation.files.writing import written
from annotation.importing import MAX_PAIR_LINE
from annotation.queries import standing_pairs
from tests.annotation.pair_rows import (
    CALL,
    RESULT,
    SYSTEM,
    contents,
    given_back,
    jsonl,
    load,
)
from tests.factories import make_project

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]

SOUP = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
TEXT = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30
)
START = st.sampled_from(
    ["", "=", "+", "-", "@", "\t", "\r", "'", "''=", "[{", '"', "\ufeff"]
)
SPOKEN = st.builds(lambda start, text: start + text, START, TEXT)
ASKED = SPOKEN.filter(lambda text: text.strip())
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
    ),
    max_leaves=5,
)
REST = st.dictionaries(TEXT.map(lambda name: f"x-{name}"), JSON, max_size=2)


def chat(role, text):
    return st.builds(lambda said: [{"role": role, "content": said}], text)


ANY_TRL = st.builds(
    lambda prompt, chosen, rejected, rest: {
        **rest,
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
    },
    ASKED | chat("user", ASKED),
    SPOKEN | chat("assistant", SPOKEN),
    SPOKEN | chat("assistant", SPOKEN),
    REST,
)
ANY_OPENAI = st.builds(
    lambda prompt, one, other, rest, inside: {
        **rest,
        "input": {**inside, "messages": [SYSTEM, *prompt]},
        "preferred_output": one,
        "non_preferred_output": other,
    },
    chat("user", ASKED),
    chat("assistant", SPOKEN) | st.just([CALL, RESULT]),
    chat("assistant", SPOKEN),
    REST,
    REST,
)


def spoken(by, text):
    return st.builds(lambda said: {"from": by, "value": said}, text)


ANY_LLAMAFACTORY = st.builds(
    lambda q, one, other, rest: {
        **rest,
        "conversations": [q],
        "chosen": one,
        "rejected": other,
    },
    spoken("human", ASKED),
    spoken("gpt", SPOKEN),
    spoken("gpt", SPOKEN),
    REST,
)


@SOUP
@given(
    data=st.data(),
    kind=st.sampled_from(
        [("trl", ANY_TRL), ("openai", ANY_OPENAI), ("llamafactory", ANY_LLAMAFACTORY)]
    ),
)
def test_any_row_goes_out_as_it_came_and_through_every_table(data, kind):
    format, strategy = kind
    rows = data.draw(st.lists(strategy, min_size=1, max_size=4))
    project = make_project()
    report = load(project, rows)
    assert report.rejected == []
    assert report.accepted + report.duplicates == len(rows)
    back = given_back(project, format)
    if not report.duplicates:
        assert back == rows
    pairs = standing_pairs(project)
    for way in ("csv", "jsonl", "parquet"):
        file = b"".join(written(pair_table(pairs), PAIRS, way))
        other = make_project()
        if way == "parquet":
            rows = columnar.parquet_rows(
                io.BytesIO(file), MAX_PAIR_LINE, Unpacked(1 << 30)
            )
            file = jsonl(row for _number, row in rows)
        assert load(other, file).rejected == [], way
        assert contents(other) == contents(project), way


@SOUP
@given(data=st.binary(max_size=300) | ANY_TRL.map(lambda row: jsonl([row])[:-9]))
def test_byte_soup_is_reported_or_refused(project, data):
    try:
        report = load(project, data)
    except ImportRefused as refused:
        assert refused.message
    else:
        json.dumps([bad.reason for bad in report.rejected]).encode()


@SOUP
@given(
    rows=st.lists(
        st.dictionaries(
            st.sampled_from(
                [
                    *("prompt", "chosen", "rejected", "input", "messages"),
                    *("preferred_output", "non_preferred_output", "conversations"),
                    *("instruction", "history", "system", "completion", "label"),
                    *("kto_tag", "weight", "original", "from", "value"),
                ]
            ),
            JSON
            | st.lists(
                st.dictionaries(
                    st.sampled_from(["role", "content", "from", "value", "tool_calls"]),
                    JSON
                    | st.sampled_from(["user", "assistant", "human", "gpt", "tool"]),
                ),
                max_size=3,
            ),
        ),
        max_size=5,
    )
)
def test_field_soup_never_raises(project, rows):
    report = load(project, rows)
    json.dumps([bad.reason for bad in report.rejected]).encode()
