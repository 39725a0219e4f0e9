"""Sampling parameters name what is wrong with them."""

import pytest

from inference.sampling import SamplingParams


def test_a_projects_settings_become_parameters_without_its_system_prompt():
    params = SamplingParams.from_dict(
        {"temperature": 0.7, "top_p": 0.9, "max_tokens": 20, "system_prompt": "Hi"}
    )
    assert params == SamplingParams(temperature=0.7, top_p=0.9, max_tokens=20)
    assert "system_prompt" not in params.as_dict()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", "hot"),
        ("temperature", True),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", -1),
        ("top_k", 1.5),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("max_tokens", 0),
        ("max_tokens", None),
        ("max_token", 5),
        ("n", 3),
    ],
)
def test_a_wrong_field_is_named(field, value):
    with pytest.raises(ValueError, match=rf"^{field} "):
        SamplingParams.from_dict({field: value})


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("temperature", -1.0, "temperature must be from 0 to 2, not -1.0"),
        ("top_p", 0, "top_p must be above 0 and at most 1, not 0"),
        ("max_tokens", 0, "max_tokens must be from 1 to 1000000, not 0"),
    ],
)
def test_what_is_out_of_its_range_is_told_the_range(field, value, told):
    with pytest.raises(ValueError) as wrong:
        SamplingParams.from_dict({field: value})
    assert str(wrong.value) == told


def test_whole_numbers_may_come_as_floats_from_json():
    assert SamplingParams.from_dict({"max_tokens": 20.0}).max_tokens == 20
