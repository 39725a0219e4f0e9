"""What several threads write in one commit: each gets its own back, and fails alone."""

import threading

import pytest
from django.contrib.sessions.models import Session
from django.db import IntegrityError, OperationalError, connection, transaction
from django.utils import timezone, translation
from django.utils.translation import gettext

from annotation import committing
from annotation.committing import committed
from annotation.models import Project, Prompt
from tests.factories import make_project
from tests.waiting import wait_for

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db(transaction=True)]


class Crowd:
    """Threads that ask for a commit while an earlier one is still under way."""

    def __init__(self):
        self.answers, self._threads = {}, []
        self._may_end = threading.Event()
        began = threading.Event()

        def first():
            began.set()
            assert self._may_end.wait(30)

        self.ask("first", first)
        assert began.wait(30)

    def ask(self, name, work, language="en"):
        def run():
            try:
                with translation.override(language):
                    self.answers[name] = committed(work)
            except Exception as error:
                self.answers[name] = error
            finally:
                connection.close()

        thread = threading.Thread(target=run)
        self._threads.append(thread)
        thread.start()

    def end(self):
        if connection.vendor == "sqlite":
            # Else a slow thread might come after the commit that it is to share.
            others = len(self._threads) - 1
            wait_for("all in line", lambda: len(committing._line._waiting) == others)
        self._may_end.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        return self.answers


def stored():
    return set(Project.objects.values_list("slug", flat=True))


def test_each_gets_its_own_answer_and_what_fails_fails_alone():
    crowd = Crowd()
    for name in ("one", "two", "three"):
        crowd.ask(name, lambda name=name: make_project(slug=name).slug)

    def fail():
        make_project(slug="four")
        raise LookupError("mine")

    crowd.ask("four", fail)
    answers = crowd.end()
    assert {name: answers[name] for name in ("one", "two", "three")} == {
        "one": "one",
        "two": "two",
        "three": "three",
    }
    assert isinstance(answers["four"], LookupError)
    assert stored() == {"one", "two", "three"}


def test_sqlite_syncs_once_for_all_who_waited():
    crowd, threads = Crowd(), {}

    def write(name):
        make_project(slug=name)
        threads[name] = threading.get_ident()

    for name in "abcde":
        crowd.ask(name, lambda name=name: write(name))
    crowd.end()
    assert stored() == set("abcde")
    # One does the work of all; PostgreSQL needs no such help.
    assert len(set(threads.values())) == (1 if connection.vendor == "sqlite" else 5)


def test_nobody_is_answered_before_the_commit():
    seen_outside = []

    def write():
        make_project(slug="late")
        outside = threading.Thread(
            target=lambda: (seen_outside.append(stored()), connection.close())
        )
        outside.start()
        outside.join(30)

    committed(write)
    assert seen_outside == [set()]
    assert stored() == {"late"}


def test_a_commit_that_fails_fails_for_all_it_held():
    """Foreign keys are checked at the commit."""
    crowd = Crowd()
    crowd.ask("good", lambda: make_project(slug="good"))
    crowd.ask("bad", lambda: Prompt.objects.create(project_id=987_654, messages=[]))
    answers = crowd.end()
    assert isinstance(answers["bad"], IntegrityError)
    if connection.vendor == "sqlite":
        assert isinstance(answers["good"], IntegrityError)
        assert stored() == set()
    else:
        assert stored() == {"good"}
    assert committed(lambda: make_project(slug="next").slug) == "next"


def test_a_part_that_ends_the_whole_transaction_fails_for_all_it_held():
    """As SQLite does where the disk is full: it rolls back more than the one statement."""
    crowd = Crowd()

    def fill_the_disk():
        if connection.vendor != "sqlite":
            raise OperationalError("full")
        with connection.cursor() as cursor:
            pages = cursor.execute("PRAGMA page_count").fetchone()[0]
            # What earlier tests left free is filled first.
            free = cursor.execute("PRAGMA freelist_count").fetchone()[0]
            size = cursor.execute("PRAGMA page_size").fetchone()[0]
            cursor.execute(f"PRAGMA max_page_count = {pages + 2}")
        long = "x" * (size * (free + 25))
        try:
            Session.objects.create(
                session_key="x", session_data=long, expire_date=timezone.now()
            )
        finally:
            with connection.cursor() as cursor:
                # The sqlite3 module's own cursor: Django's refuses by now.
                cursor.cursor.execute("PRAGMA max_page_count = 1073741823")

    crowd.ask("before", lambda: make_project(slug="before").slug)
    if connection.vendor == "sqlite":
        wait_for("the first", lambda: len(committing._line._waiting) == 1)
    crowd.ask("full", fill_the_disk)
    if connection.vendor == "sqlite":
        wait_for("the second", lambda: len(committing._line._waiting) == 2)
    crowd.ask("after", lambda: make_project(slug="after").slug)
    answers = crowd.end()
    assert isinstance(answers["full"], OperationalError)
    told = {name for name, answer in answers.items() if answer == name}
    assert told == stored()
    assert told == (set() if connection.vendor == "sqlite" else {"before", "after"})
    assert committed(lambda: make_project(slug="next").slug) == "next"


def test_words_are_in_the_language_of_who_asked():
    crowd = Crowd()
    crowd.ask("english", lambda: gettext("Skipped"), "en")
    crowd.ask("chinese", lambda: gettext("Skipped"), "zh-hans")
    answers = crowd.end()
    assert (answers["english"], answers["chinese"]) == ("Skipped", "已跳过")


def test_inside_of_a_transaction_it_is_a_part_of_that():
    with pytest.raises(LookupError), transaction.atomic():
        committed(lambda: make_project(slug="inner"))
        raise LookupError
    assert stored() == set()
