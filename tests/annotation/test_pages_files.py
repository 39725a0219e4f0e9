"""The pages of import and export: from a chosen file to its report, and back out."""

import io
import json
import re

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from annotation import import_jobs, queries
from annotation.export_rows import pseudonym
from annotation.models import ImportJob, PreferencePair, Role
from tests.annotation.pages import html
from tests.factories import make_judgment, make_pair, make_project, make_user

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]

PAIR = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}


@pytest.fixture(autouse=True)
def _no_broker(monkeypatch):
    monkeypatch.setattr("annotation.import_jobs._nudge", lambda job_id: None)
    monkeypatch.setattr("annotation.import_jobs.send", lambda *args, **options: None)


@pytest.fixture
def url(client, project, manager):
    client.force_login(manager)
    return reverse("imports", args=[project.slug])


def test_the_choice_of_annotators_looks_each_one_up(project, annotator):
    """Of who never worked here, SQLite read all leases of the project."""
    make_user(project=project)
    make_judgment(project=project, annotator=annotator)
    with CaptureQueriesContext(connection) as asked:
        assert queries.worked_here(project) == {"alice": annotator.pk}
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {asked[0]['sql']}")
            plan = "\n".join(row[-1] for row in cursor.fetchall())
        assert "(project_id=? AND annotator_id=?)" in plan, plan


def upload(client, url, text, name="pairs.jsonl"):
    data = text if isinstance(text, bytes) else text.encode()
    response = client.post(url, {"file": SimpleUploadedFile(name, data)})
    assert response.status_code == 302, html(response)
    return ImportJob.objects.latest("pk")


def address(job, name="import_job"):
    return reverse(name, args=[job.pk])


def test_a_file_is_shown_first_then_imported_with_a_bar_and_a_report(client, url):
    job = upload(client, url, json.dumps(PAIR) + "\n{oops\n")
    preview = client.get(address(job))
    assert preview.context["kind"] == "pairs"
    assert "Why?" in html(preview) and "not JSON" in html(preview)
    assert not PreferencePair.objects.exists()

    started = client.post(address(job, "start_import"), {"kind": "pairs"})
    assert started["Location"] == address(job)
    page = client.get(address(job))
    assert "Waiting for a worker" in html(page) and 'hx-trigger="every 1s"' in html(
        page
    )
    import_jobs.run(job.pk)
    status = client.get(address(job, "import_status"), headers={"HX-Request": "true"})
    assert status.status_code == 286 and "hx-get" not in html(status)
    assert "not JSON" in html(status)
    told = b"".join(client.get(address(job, "import_faults"))).decode("utf-8-sig")
    assert told.splitlines()[0] == "file,line,reason"
    assert told.splitlines()[1].startswith(",2,not JSON")
    asked = client.get(
        address(job, "import_faults"), headers={"Accept-Language": "zh-Hans"}
    )
    told = b"".join(asked).decode("utf-8-sig")
    assert told.splitlines()[1].startswith(",2,不是JSON")


def test_a_format_is_named_as_the_export_page_names_it(client, project, url):
    """One of each that rows are told apart as."""
    openai = {
        "input": {"messages": [{"role": "user", "content": "Why?"}]},
        "preferred_output": [{"role": "assistant", "content": "So."}],
        "non_preferred_output": [{"role": "assistant", "content": "No."}],
    }
    answers = {"chosen": "So.", "rejected": "No."}
    rows = [
        PAIR,
        openai,
        {"instruction": "How?", "input": "", **answers},
        {"prompt": "Who?", "completion": "Me.", "label": True},
    ]
    job = upload(client, url, "\n".join(map(json.dumps, rows)))
    named = re.findall('class="badge">(.+?)<', html(client.get(address(job))))
    assert named == ["TRL", "OpenAI, Azure", "LLaMA-Factory", "KTO"]
    export = html(client.get(reverse("export", args=[project.slug])))
    assert all(f"{name} (JSONL)" in export for name in named)


def test_polling_is_answered_with_nothing_while_nothing_changes(client, url):
    job = upload(client, url, json.dumps(PAIR))
    client.post(address(job, "start_import"))
    ask = {"HX-Request": "true"}
    first = client.get(address(job, "import_status"), headers=ask)
    ask["If-None-Match"] = first["ETag"]
    assert first.status_code == 200
    assert client.get(address(job, "import_status"), headers=ask).status_code == 304
    ImportJob.objects.filter(pk=job.pk).update(items_done=5)
    assert client.get(address(job, "import_status"), headers=ask).status_code == 200


def test_columns_are_named_looked_at_again_and_kept_for_the_import(client, url):
    rows = {"question": "Why?", "better": "So.", "worse": "No."}
    job = upload(client, url, json.dumps(rows))
    named = {
        "kind": "pairs",
        "map_prompt": "question",
        "map_chosen": "better",
        "map_rejected": "worse",
        "map_weight": "no such column",
    }
    before = client.get(address(job), {"kind": "pairs"})
    assert before.context["found"].n_good == 0
    after = client.get(address(job), named)
    assert after.context["found"].n_good == 1
    client.post(address(job, "start_import"), named)
    import_jobs.run(job.pk)
    job.refresh_from_db()
    assert (job.state, job.accepted) == ("done", 1)


def test_pasted_lines_and_prompts_go_the_same_way(client, project, url):
    response = client.post(url, {"text": "prompt\nWhy?\nHow?\n"})
    job = ImportJob.objects.get()
    assert response["Location"] == address(job) and job.kind == "prompts"
    client.post(address(job, "start_import"))
    import_jobs.run(job.pk)
    assert project.prompts.filter(is_asked=True).count() == 2
    for language, words in (("en", "pasted lines"), ("zh-hans", "粘贴的内容")):
        reader = {"HTTP_ACCEPT_LANGUAGE": language}
        assert words in html(client.get(url, **reader))
        assert words in html(client.get(address(job), **reader))


def test_what_was_pasted_in_chinese_is_told_in_english(client, url):
    client.post(url, {"text": "prompt\nWhy?"}, HTTP_ACCEPT_LANGUAGE="zh-hans")
    page = html(client.get(url))
    assert "pasted lines" in page and "粘贴的内容" not in page


@pytest.mark.parametrize("data", [{}, {"text": " \n"}, {"path": "../x"}])
def test_nothing_to_import_is_422_and_says_why(client, url, data):
    response = client.post(url, data)
    assert response.status_code == 422
    assert "Choose a file" in html(response)
    assert not ImportJob.objects.exists()


def test_a_file_above_the_limit_is_told_with_the_limit_and_not_kept(
    client, url, settings
):
    settings.IMPORT_MAX_BYTES = 2000
    file = SimpleUploadedFile("big.jsonl", b"x" * 5000)
    response = client.post(url, {"file": file})
    assert response.status_code == 422 and "larger than" in html(response)
    assert not ImportJob.objects.exists()


@pytest.mark.parametrize(
    "data", [b"\x89PNG\r\n\x1a\n\0\xff" * 50, b"PK\x03\x04oops", b""]
)
def test_a_file_that_is_no_data_is_told_not_crashed_on(client, url, data):
    job = upload(client, url, data, "photo.png")
    assert client.get(address(job)).status_code in (200, 422)
    client.post(address(job, "start_import"))
    import_jobs.run(job.pk)
    assert client.get(address(job)).status_code in (200, 422)


def test_what_is_not_wanted_is_let_go_and_what_runs_is_stopped(client, project, url):
    job = upload(client, url, json.dumps(PAIR))
    assert client.post(address(job, "cancel_import"))["Location"] == url
    again = client.post(address(job, "cancel_import"))
    assert again.status_code == 409 and "ended already" in html(again)
    gone = client.post(address(job, "start_import"))
    assert gone.status_code == 409 and "Upload it again" in html(gone)
    job = upload(client, url, json.dumps(PAIR))
    client.post(address(job, "start_import"))
    client.post(address(job, "cancel_import"))
    assert "Go on" in html(client.get(address(job)))
    client.post(address(job, "start_import"))
    import_jobs.run(job.pk)
    assert project.pairs.count() == 1


def test_imports_of_another_project_are_not_seen(client, url):
    stranger = make_user()
    other = make_project(members={stranger: Role.MANAGER})
    job = upload(client, url, json.dumps(PAIR))
    client.force_login(stranger)
    for name in ("import_job", "import_status", "import_faults"):
        assert client.get(address(job, name)).status_code == 404
    assert job.name not in html(client.get(reverse("imports", args=[other.slug])))


def test_imports_are_told_apart_by_when_they_were_made(client, project, manager, url):
    """Those of pasted lines all have one name."""
    job = ImportJob.objects.create(project=project, by=manager, name="a", path="")
    ImportJob.objects.filter(pk=job.pk).update(created_at="2026-03-04T05:06:00Z")
    assert "2026-03-04 05:06" in html(client.get(url))


def test_the_import_page_costs_the_same_however_many_imports(
    client, project, manager, url, django_assert_max_num_queries
):
    def queries():
        with django_assert_max_num_queries(20) as counted:
            client.get(url)
        return len(counted)

    ImportJob.objects.create(project=project, by=manager, name="a", path="")
    few = queries()
    for _number in range(15):
        ImportJob.objects.create(project=project, by=manager, name="a", path="")
    assert queries() == few


# --- Export ------------------------------------------------------------------------------
def test_the_export_page_counts_what_its_filters_leave(client, project, url):
    make_pair(project=project)
    make_pair(project=project, state="rejected")
    page = reverse("export", args=[project.slug])
    assert client.get(page).context["counts"]["pairs"] == 1
    found = client.get(page, {"which": "all", "what": "pairs:csv"})
    assert found.context["counts"] == {"pairs": 2, "judgments": 2, "prompts": 2}
    wrong = client.get(page, {"agreement": "high"})
    assert wrong.status_code == 422 and "0 to 1" in html(wrong)
    wrong = client.get(page, {"which": "best"})
    assert wrong.status_code == 422
    assert len(wrong.context["form"].errors["which"]) == 1, "said once"


def test_each_choice_of_the_export_page_downloads(client, project, url):
    make_pair(project=project)
    page = client.get(reverse("export", args=[project.slug]))
    groups = page.context["form"].fields["what"].choices
    values = [value for _group, choices in groups for value, _label in choices]
    assert len(values) == 14
    for value in values:
        file = client.get(reverse("export_file", args=[project.slug]), {"what": value})
        assert file.status_code == 200, value
        assert project.slug in file["Content-Disposition"]
        assert len(b"".join(file)) > 20, value
    wrong = client.get(reverse("export_file", args=[project.slug]), {"what": "users"})
    assert wrong.status_code == 422


def test_reviewers_export_without_names(client, project):
    make_judgment(project=project)
    rita = make_user("rita", project=project, role=Role.REVIEWER)
    client.force_login(rita)
    page = client.get(reverse("export", args=[project.slug]))
    assert "names" not in page.context["form"].fields
    # Nor by a name that would tell whose a pseudonym is.
    own = make_judgment(project=project, annotator=rita)
    alice = make_judgment(project=project, annotator=make_user("alice")).annotator
    page = client.get(reverse("export", args=[project.slug]))
    offered = [name for name, _label in page.context["form"]["annotator"].field.choices]
    hidden = pseudonym(project.pk, alice.pk)
    assert len(offered) == 4 and {"", "rita", hidden} < {*offered}
    assert "alice" not in offered
    assert pseudonym(project.pk, own.annotator_id) not in offered, "said once"
    for name, status in (("alice", 422), ("rita", 200), (hidden, 200), ("zoe", 422)):
        for view in ("export", "export_file"):
            url = reverse(view, args=[project.slug])
            found = client.get(url, {"what": "judgments", "annotator": name})
            assert found.status_code == status, (view, name)
    ask = {"what": "judgments:jsonl", "names": "on"}
    file = client.get(reverse("export_file", args=[project.slug]), ask)
    assert file.status_code == 403


# --- The API -------------------------------------------------------------------------------
def test_what_the_api_gives_it_takes_again(client, project, url):
    make_pair(project=project)
    for kind, mime in (("trl", "application/jsonl"), ("csv", "text/csv")):
        call = f"/api/v1/projects/{project.slug}/pairs"
        data = b"".join(client.get(call, {"format": kind}))
        other = make_project(members={make_user(kind): Role.MANAGER})
        client.force_login(other.memberships.get().user)
        answer = client.post(
            f"/api/v1/projects/{other.slug}/pairs", data, content_type=mime
        )
        assert answer.json() == {"accepted": 1, "duplicates": 0, "rejected": []}
        client.force_login(project.memberships.get(role="manager").user)
    bad = client.post(call, io.BytesIO(b"{}"), content_type="application/jsonl")
    assert bad.json()["rejected"][0]["line"] == 1
