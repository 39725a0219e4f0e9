"""An import's page in a real browser while a worker is at it."""

from django.utils import timezone
from playwright.sync_api import expect

from annotation import import_jobs
from annotation.models import ImportJob, Role
from tests.factories import make_project, make_user


def test_the_focus_stays_where_it_was_while_the_page_renews_itself(
    browse, transactional_db
):
    manager = make_user("manager")
    project = make_project(members={manager: Role.MANAGER})
    job = import_jobs.receive_text(project, manager, '{"prompt": "Why?"}')
    rows = ImportJob.objects.filter(pk=job.pk)
    rows.update(state=ImportJob.State.RUNNING, heartbeat_at=timezone.now())
    page = browse(manager, f"/imports/{job.pk}/")
    others = page.get_by_role("link", name="All imports")
    others.focus()
    rows.update(accepted=17, items_done=17)
    expect(page.get_by_text("17 prompts and bad lines read")).to_be_visible()
    expect(others).to_be_focused()
