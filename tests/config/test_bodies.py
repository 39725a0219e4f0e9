"""What a stranger may have the server hold: little, before anybody has signed in."""

from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.files.uploadhandler import TemporaryFileUploadHandler
from django.test import Client
from django.urls import reverse

from annotation.models import ImportJob
from tests.factories import make_project, make_user

pytestmark = pytest.mark.django_db

LARGE = b'{"prompt": "Why?"}\n' * 200_000
"""3.8 MB: above what Django keeps in memory of a file."""


@pytest.fixture
def kept(monkeypatch):
    """Bytes that were written to temporary files."""
    sizes = []
    write = TemporaryFileUploadHandler.receive_data_chunk

    def counted(self, raw_data, start):
        sizes.append(len(raw_data))
        return write(self, raw_data, start)

    monkeypatch.setattr(TemporaryFileUploadHandler, "receive_data_chunk", counted)
    return sizes


def send_file(client, name, *args):
    return client.post(
        reverse(name, args=args), {"file": SimpleUploadedFile("x.jsonl", LARGE)}
    )


def test_a_file_that_no_form_asked_for_is_never_stored(kept):
    project = make_project(slug="demo")
    stranger, ada = Client(enforce_csrf_checks=True), Client()
    ada.force_login(make_user(project=project))
    send_file(stranger, "login")
    send_file(stranger, "imports", "demo")
    send_file(ada, "preferences")
    assert sum(kept) == 0


def test_a_file_that_was_asked_for_is(kept, monkeypatch, settings, tmp_path):
    monkeypatch.setattr("annotation.import_jobs._nudge", lambda job_id: None)
    settings.IMPORTS_DIR = tmp_path
    mona = Client()
    mona.force_login(make_user(project=make_project(slug="demo"), role="manager"))
    assert send_file(mona, "imports", "demo").status_code == 302
    assert sum(kept) == len(LARGE)
    assert Path(ImportJob.objects.get().path).read_bytes() == LARGE


def test_a_form_of_many_megabytes_is_not_read_and_told_the_limit():
    form = {"username": "ada", "password": "x" * 5_000_000}
    urlencoded = "application/x-www-form-urlencoded"
    body = "password=" + form["password"]
    chinese = Client(headers={"accept-language": "zh-hans"})
    for answer in (
        Client().post(reverse("login"), form),
        Client().post(reverse("login"), body, content_type=urlencoded),
        chinese.post(reverse("login"), form),
    ):
        assert answer.status_code == 413
        page = answer.content.decode()
        assert "4.0\xa0MB" in page
        assert 'class="message-page"' in page
    assert 'lang="zh-hans"' in page


def test_what_cannot_be_read_gets_a_page_of_ours_too():
    answer = Client(headers={"host": "elsewhere.example"}).get(reverse("login"))
    assert answer.status_code == 400
    assert "The request could not be read" in answer.content.decode()
