"""What an export costs: pages of a table, queries, plans where statistics are wrong."""

import json
from datetime import UTC, datetime

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from annotation import batches, downloads, export_filters, exporting
from annotation.batches import paged
from annotation.export_filters import wanted
from annotation.models import Completion, Judgment
from tests.annotation.exported import rows
from tests.factories import (
    make_imported,
    make_judgment,
    make_pair,
    make_project,
    make_prompt,
)
from tests.plans import assert_sought_by_keys

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


def test_pages_of_a_table_are_whole_whatever_the_order(project):
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(7):
        judgment = make_judgment(project=project)
        Judgment.objects.filter(pk=judgment.pk).update(
            created_at=moment.replace(day=1 + number // 3)
        )
    found = Judgment.objects.filter(project=project)
    for size in (1, 2, 3, 7, 8):
        keys = [
            (j.created_at, j.pk) for j in paged(found, "created_at", "pk", size=size)
        ]
        assert len(set(keys)) == 7 and [k[0] for k in keys] == sorted(
            k[0] for k in keys
        )


def test_an_export_costs_four_queries_a_page_and_holds_nothing_open(
    project, django_assert_num_queries, monkeypatch
):
    for _number in range(5):
        make_pair(project=project)
    with django_assert_num_queries(4):
        assert len(rows(downloads.pairs(project, {}))) == 5
    monkeypatch.setattr(batches.paged, "__kwdefaults__", {"size": 2})
    with django_assert_num_queries(13):  # Three pages, and what another writes.
        stream = exporting.jsonl(export_filters.pairs(project, wanted({}, project)))
        first = next(stream)
        # While it is read, others write.
        Completion.objects.update(text="changed meanwhile")
        rest = [json.loads(line) for line in stream]
    assert "changed" not in first and len(rest) == 4
    assert rest[-1]["chosen"][0]["content"] == "changed meanwhile"


def test_pairs_are_exported_by_keys_while_statistics_are_wrong():
    project = make_project()
    prompt = make_prompt(project=project)
    for _ in range(20):
        make_imported(prompt, state="unchecked")
    pairs = export_filters.pairs(project, wanted({"which": "all"}, project))
    with CaptureQueriesContext(connection) as asked:
        assert len(list(exporting.jsonl(pairs))) == 20
    assert_sought_by_keys([query["sql"] for query in asked])
