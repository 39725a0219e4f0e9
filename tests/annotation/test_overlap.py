"""Which comparisons are judged several times: a share, drawn by a hash."""

import pytest

from annotation.filling import fill_stock
from annotation.models import Comparison
from annotation.overlap import is_drawn, judgments_wanted
from annotation.project_settings import ProjectSettings
from inference.services import Sampled
from tests.factories import make_project, make_prompt, make_server


def drawn(share, many=2000):
    return [
        number
        for number in range(many)
        if is_drawn([{"role": "user", "content": f"Q{number}"}], ["a", "b"], share)
    ]


def test_about_the_share_is_drawn_and_a_larger_share_keeps_those_of_a_smaller():
    """Binomial: 2000 draws at 0.2 have a standard deviation of 18; five of them."""
    assert len(drawn(0.2)) == pytest.approx(400, abs=90)
    assert set(drawn(0.2)) < set(drawn(0.5))
    assert drawn(0) == [] and len(drawn(1)) == 2000


def test_the_draw_is_the_same_again_and_does_not_depend_on_which_answer_is_a():
    messages = [{"role": "user", "content": "好吗?"}]
    for share in (0.1, 0.4, 0.7):
        assert is_drawn(messages, ["x", "y"], share) == is_drawn(
            messages, ["y", "x"], share
        )


@pytest.mark.parametrize(
    "quota, share, wanted", [(3, 1.0, 3), (3, 0.0, 1), (1, 1.0, 1), (1, 0.0, 1)]
)
def test_who_is_drawn_gets_the_quota_the_others_one(quota, share, wanted):
    settings = ProjectSettings(quota=quota, overlap_share=share)
    assert judgments_wanted(settings, [], ["a", "b"]) == wanted


@pytest.mark.django_db
def test_the_stock_makes_slots_by_the_draw(monkeypatch):
    project = make_project(settings={"stock": 30, "quota": 3, "overlap_share": 0.5})
    for number in range(30):
        make_prompt(f"Q{number}", project=project)

    def generate_pair(policy, messages, sampling, servers):
        return tuple(
            Sampled(policy, text, [1], [2], [-0.5], "stop", 7, sampling.as_dict())
            for text in ("One answer.", "Another answer.")
        )

    make_server()
    monkeypatch.setattr("inference.services.generate_pair", generate_pair)
    fill_stock(project)
    slots = {
        (
            comparison.slots.count(),
            is_drawn(
                comparison.prompt.messages, ["One answer.", "Another answer."], 0.5
            ),
        )
        for comparison in Comparison.objects.all()
    }
    assert slots == {(3, True), (1, False)}
