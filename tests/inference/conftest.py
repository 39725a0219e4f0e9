"""Fixtures of the inference tests."""

import pytest

from inference.base import ensure_base
from tests.inference.small_files import write_base
from tests.inference.stub_server import stub
from tests.vllm_server import tiny_model, vllm, vllm_session

__all__ = ["stub", "tiny_model", "vllm", "vllm_session"]


@pytest.fixture
def base(settings, tmp_path):
    """The base of a few bytes, in a data folder of its own."""
    settings.DATA_DIR = tmp_path / "data"
    settings.DATA_DIR.mkdir()
    settings.POLICIES_DIR = settings.DATA_DIR / "policies"
    settings.MODEL = str(write_base(tmp_path / "base"))
    return ensure_base()
