"""What pages over very many pairs read: no more than they show or count."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from annotation import queries
from annotation.deciding import supersede
from annotation.models import PreferencePair, Role
from annotation.views import pairs as pairs_page
from tests.acts import decide
from tests.factories import make_judgment, make_pair, make_project, make_user

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


def test_sound_pairs_are_counted_without_a_look_at_decisions():
    project = make_project()
    pairs = [make_pair(project=project) for _ in range(4)]
    pairs[1].prompt.is_held_out = True
    pairs[1].prompt.save()
    supersede(pairs[2].decision)
    PreferencePair.objects.filter(pk=pairs[3].pk).update(state="rejected")
    make_pair()  # of another project
    with CaptureQueriesContext(connection) as asked:
        assert queries.count_sound(project) == 1
    assert list(queries.sound_pairs(project)) == [pairs[0]]
    (query,) = asked
    assert "annotation_decision" not in query["sql"]
    assert "annotation_comparison" not in query["sql"]


@pytest.mark.parametrize("purpose", ["head_to_head", "repeat", "gold"])
def test_only_training_comparisons_make_pairs(purpose):
    """By which they may be counted without looking."""
    judgment = make_judgment()
    comparison = judgment.comparison
    comparison.purpose = purpose
    comparison.save()
    decide(comparison)
    assert not PreferencePair.objects.exists()


def test_a_late_page_of_pairs_reads_the_answers_it_shows_alone(client, monkeypatch):
    monkeypatch.setattr(pairs_page, "PAGE_SIZE", 2)
    project = make_project()
    pairs = [make_pair(project=project) for _ in range(5)]
    rita = make_user("rita", project=project, role=Role.REVIEWER)
    client.force_login(rita)
    url = reverse("pairs", args=[project.slug])
    with CaptureQueriesContext(connection) as asked:
        page = client.get(url, {"page": "2"}).context["pairs"]
    assert list(page) == [pairs[2], pairs[1]]
    assert (page.number, page.paginator.num_pages) == (2, 3)
    (skips,) = (query["sql"] for query in asked if "OFFSET" in query["sql"])
    assert "annotation_completion" not in skips
    assert "annotation_prompt" not in skips
