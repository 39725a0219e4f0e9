"""What is written down for readers of any language is English, whoever wrote it."""

import pytest
from django.utils import translation

from tests.api.helpers import V1, assert_problem
from tests.factories import make_policy
from training.models import TrainingRound
from training.tasks import train_round

pytestmark = pytest.mark.django_db
IN_CHINESE = {"Accept-Language": "zh-hans"}


def test_a_worker_of_a_chinese_site_fails_a_round_in_english(queued):
    TrainingRound.objects.filter(pk=queued.pk).update(config={"seed": 13})
    with translation.override("zh-hans"):
        train_round(queued.pk)
        assert translation.get_language() == "zh-hans"
    queued.refresh_from_db()
    assert queued.error.startswith("The trainer failed: The stub was told to fail.")


@pytest.fixture
def spoiled(project, settings, monkeypatch):
    """A candidate without its files."""
    settings.POLICIES_DIR.mkdir()
    monkeypatch.setattr("inference.policies._ready_servers", lambda policy: [])
    return make_policy(project=project)


def test_what_rejects_a_policy_is_kept_in_english_and_told_in_the_managers_language(
    client, spoiled, project, manager
):
    client.force_login(manager)
    path = f"/policies/{spoiled.name}/deploy/"
    page = client.post(path, headers=IN_CHINESE)
    assert page.status_code == 422
    assert "文件已不存在" in page.content.decode()
    spoiled.refresh_from_db()
    assert spoiled.rejected_reason.startswith("Its files are gone: ")

    again = client.post(f"{V1}{path[:-1]}", {}, "application/json", headers=IN_CHINESE)
    problem = assert_problem(again, 409)
    assert "已被拒绝" in problem["detail"] and "文件已不存在" in problem["detail"]
    body = {"start": spoiled.name}
    address = f"{V1}/projects/{project.slug}/rounds"
    refused = client.post(address, body, "application/json", headers=IN_CHINESE)
    assert "文件已不存在" in assert_problem(refused, 422)["detail"]
