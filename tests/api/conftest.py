"""The cast: Alice annotates, Rita reviews, Mona manages, Charlie is a stranger.

Bob, in a test, is whoever of them is a member below the role that is needed.
"""

import pytest
from rest_framework.test import APIClient

from tests.factories import make_project, make_user


@pytest.fixture
def project(db):
    return make_project(slug="demo", name="Demo")


def _client(user=None):
    client = APIClient()
    if user is not None:
        client.force_authenticate(user)
    client.user = user
    return client


@pytest.fixture
def alice(project):
    return _client(make_user("alice", project=project, role="annotator"))


@pytest.fixture
def rita(project):
    return _client(make_user("rita", project=project, role="reviewer"))


@pytest.fixture
def mona(project):
    return _client(make_user("mona", project=project, role="manager"))


@pytest.fixture
def charlie(project):
    return _client(make_user("charlie"))


@pytest.fixture
def nobody(project):
    return _client()
