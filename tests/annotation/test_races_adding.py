"""Threads that add comparisons, prompts and members at once: no pile, none lost."""

import threading

import pytest

from annotation.filling import fill_stock
from annotation.importing import import_prompts
from annotation.models import Comparison, Prompt, Role, StockReservation
from annotation.projects import change_member
from inference.services import Sampled
from tests.factories import make_project, make_prompt, make_server, make_user
from tests.threads import together

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db(transaction=True)]


def test_workers_that_fill_together_never_make_a_pile(monkeypatch):
    project = make_project(settings={"stock": 10})
    for n in range(6):
        make_prompt(f"Q{n}", project=project)
    lock, asked = threading.Lock(), []

    def generate_pair(policy, messages, sampling, servers):
        with lock:
            asked.append(messages)
        return tuple(
            Sampled(policy, text, [1], [2], [-0.5], "stop", 7, sampling.as_dict())
            for text in ("One answer.", "Another answer.")
        )

    make_server()
    monkeypatch.setattr("inference.services.generate_pair", generate_pair)
    made = together(*[lambda: fill_stock(project)] * 4)

    # More than prompts are wanted, so workers wait for one another's prompts, too.
    assert sum(made) == len(asked) == Comparison.objects.count()
    assert 6 <= sum(made) <= 10
    while fill_stock(project):
        pass
    assert Comparison.objects.count() == 10
    assert not StockReservation.objects.exists()


def test_two_imports_of_the_same_file_at_once_count_exactly():
    from io import BytesIO

    project = make_project()
    file = b"".join(b'{"prompt": "question %d"}\n' % n for n in range(700))
    reports = together(*[lambda: import_prompts(project, BytesIO(file), "jsonl")] * 2)
    assert sum(report.accepted for report in reports) == 700
    assert sum(report.duplicates for report in reports) == 700
    assert Prompt.objects.count() == 700


def test_managers_who_each_add_a_member_at_once_lose_nobody():
    project = make_project(members={make_user("mallory"): Role.MANAGER})
    names = [f"new{number}" for number in range(5)]
    for name in names:
        make_user(name)
    together(
        *(lambda name=name: change_member(project, name, "annotator") for name in names)
    )
    members = project.memberships.values_list("user__username", flat=True)
    assert set(members) == {"mallory", *names}
