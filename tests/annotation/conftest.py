"""A project with its people, and nobody who answers at the broker or at vLLM."""

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from annotation import import_jobs
from annotation.leasing import take_lease
from annotation.models import Role
from annotation.nudging import forget_hints
from tests.factories import make_comparison, make_project, make_user


@pytest.fixture
def project(db):
    return make_project(settings={"stock": 3})


@pytest.fixture
def annotator(project):
    return make_user("alice", project=project)


@pytest.fixture
def other_annotator(project):
    return make_user("bob", project=project)


@pytest.fixture
def reviewer(project):
    return make_user("rita", project=project, role=Role.REVIEWER)


@pytest.fixture
def rita(reviewer):
    """The reviewer, where others review beside her."""
    return reviewer


@pytest.fixture
def manager(project):
    return make_user("mallory", project=project, role=Role.MANAGER)


@pytest.fixture
def lease(project, annotator):
    make_comparison(project=project)
    return take_lease(project, annotator)


@pytest.fixture
def signed_in(client, annotator):
    client.force_login(annotator)
    return client


@pytest.fixture
def nudges(monkeypatch):
    """The projects whose stock was asked to be filled, instead of a broker."""
    sent: list[int] = []
    # An earlier test may have met no broker, or its late hint may meet none now, after
    # which none is tried for a while.
    monkeypatch.setattr("annotation.nudging._quiet_until", 0.0)
    monkeypatch.setattr("annotation.nudging.PAUSE_SECONDS", 0.0)
    forget_hints()
    monkeypatch.setattr(
        "annotation.tasks.fill_stock.apply_async",
        lambda args, **options: sent.append(*args),
    )
    monkeypatch.setattr(
        "annotation.tasks.check_pairs.apply_async", lambda **options: None
    )
    return sent


@pytest.fixture
def sent(monkeypatch):
    """The jobs that workers were told of, instead of a broker."""
    jobs: list[int] = []
    monkeypatch.setattr("annotation.import_jobs._nudge", jobs.append)
    monkeypatch.setattr("annotation.import_jobs.send", lambda *args, **options: None)
    return jobs


@pytest.fixture
def receive(project, manager, sent):
    def receive(data, name="file"):
        data = data if isinstance(data, bytes) else data.encode()
        return import_jobs.receive(project, manager, SimpleUploadedFile(name, data))

    return receive
