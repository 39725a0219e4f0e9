"""Gold over the API, and who may see what is known of an annotator."""

import pytest

from annotation.models import GoldItem, Judgment
from tests.api.helpers import V1, assert_problem
from tests.factories import (
    judge_gold,
    make_gold,
    make_judgment,
    make_project,
    make_user,
)

GOLD = f"{V1}/projects/demo/gold"
ROW = '{"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "explanation": "sums"}\n'


def test_a_manager_imports_lists_and_retires_gold(mona):
    report = mona.post(GOLD, ROW + "{", content_type="application/jsonl").json()
    assert (report["accepted"], report["duplicates"]) == (1, 0)
    assert [bad["line"] for bad in report["rejected"]] == [2]

    listed = mona.get(GOLD).json()
    assert listed["count"] == 1
    (item,) = listed["results"]
    assert item["prompt"] == [{"role": "user", "content": "2 + 2?"}]
    assert item["answers"] == ["4", "5"]
    assert (item["expected"], item["explanation"]) == ("winner", "sums")
    assert (item["judged"], item["right"], item["retired_at"]) == (0, 0, None)
    assert item["author"] == "mona"

    retire = f"{V1}/gold/{item['id']}/retire"
    retired = mona.post(retire, {"was_wrong": True}, format="json").json()
    assert retired["retired_at"] and retired["was_wrong"]
    assert mona.post(retire).json() == retired


def test_what_cannot_be_read_is_refused_by_name(mona, project):
    gold = make_gold(project=project)
    retire = f"{V1}/gold/{gold.pk}/retire"
    wrong = mona.post(retire, {"wrong": True}, format="json")
    assert_problem(wrong, 422, field="wrong")
    utf16 = ROW.encode("utf-16")
    refused = mona.post(GOLD, utf16, content_type="application/jsonl")
    assert_problem(refused, 422)
    assert mona.post(GOLD, b"", content_type="application/jsonl").json() == {
        "accepted": 0,
        "duplicates": 0,
        "rejected": [],
    }
    assert GoldItem.objects.get() == gold


@pytest.fixture
def below(project, alice):
    """Alice is wrong on the one gold there is, and one judgment of hers waits."""
    project.settings = {"gold_rate": 0.05, "gold_least": 1}
    project.save()
    judge_gold(alice.user, make_gold(project=project), is_right=False)
    return make_judgment(project=project, annotator=alice.user, waits_for_review=True)


def checks_of(client, name):
    rows = client.get(f"{V1}/projects/demo/stats").json()["annotators"]
    return next(row for row in rows if row["username"] == name)["checks"]


def test_stats_tell_managers_what_is_known_of_each(mona, below):
    known = checks_of(mona, "alice")
    assert known["gold"]["count"] == 0 and known["gold"]["of"] == 1
    assert known["gold_seen"] == 1
    assert known["consistency"]["value"] is None
    assert known["too_fast"]["of"] == 0
    assert known["waiting"] == 1
    assert known["below_floor"] is True


def test_a_reviewer_sees_their_own_only_and_as_of_the_last_full_hour(
    rita, project, below
):
    gold = judge_gold(rita.user, make_gold(project=project))
    assert checks_of(rita, "alice") is None
    assert checks_of(rita, "rita")["gold"]["of"] == 0
    Judgment.objects.filter(pk=gold.pk).update(created_at="2026-01-01T00:00Z")
    assert checks_of(rita, "rita")["gold"]["of"] == 1


def test_a_reviewer_lets_waiting_judgments_count(rita, mona, below):
    url = f"{V1}/projects/demo/annotators/alice/count"
    assert rita.post(url).json() == {"counted": 1}
    assert rita.post(url).json() == {"counted": 0}
    assert checks_of(mona, "alice")["waiting"] == 0
    below.refresh_from_db()
    assert below.let_count_by == rita.user


def test_nobody_learns_there_which_accounts_there_are(rita, project, below):
    """Who has never been in the project is answered as who has no account."""
    make_user("elsewhere", project=make_project())
    make_user("member", project=project)
    left = make_judgment(project=project, annotator=make_user("left")).annotator
    project.memberships.filter(user=left).delete()

    def answer(name):
        response = rita.post(f"{V1}/projects/demo/annotators/{name}/count")
        return response.status_code, response.json()

    assert answer("member") == answer("left") == (200, {"counted": 0})
    assert answer("elsewhere") == answer("nobody")
    assert answer("nobody")[0] == 404


def test_a_reviewer_does_not_let_their_own_count(rita, mona, project):
    own = make_judgment(project=project, annotator=rita.user, waits_for_review=True)
    url = f"{V1}/projects/demo/annotators/rita/count"
    assert "your own" in assert_problem(rita.post(url), 403)["detail"]
    own.refresh_from_db()
    assert own.waits_for_review
    assert mona.post(url).json() == {"counted": 1}


def test_gold_is_for_managers(rita, alice, charlie, nobody, project):
    retire = f"{V1}/gold/{make_gold(project=project).pk}/retire"
    for client, status in ((rita, 403), (alice, 403), (charlie, 404), (nobody, 401)):
        assert_problem(client.get(GOLD), status)
        assert_problem(client.post(retire), status)


def test_a_lease_on_gold_has_the_shape_of_any_other(alice, project):
    project.settings = {"gold_rate": 1.0, "stock": 0}
    project.save()
    make_judgment(project=project, annotator=alice.user)
    make_gold(project=project)
    lease = alice.post(f"{V1}/projects/demo/leases").json()
    assert set(lease) == {"key", "expires_at", "comparison"}
    assert set(lease["comparison"]) == {"id", "prompt", "first", "second"}
    judged = alice.post(
        f"{V1}/leases/{lease['key']}/judgment", {"verdict": "tie"}, format="json"
    ).json()
    assert set(judged["judgment"]) == {
        *("id", "verdict", "strength", "reasons", "comment", "edited", "created_at"),
        "criteria",
    }
