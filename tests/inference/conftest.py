"""Fixtures of the inference tests."""

from tests.inference.stub_server import stub
from tests.vllm_server import tiny_model, vllm, vllm_session

__all__ = ["stub", "tiny_model", "vllm", "vllm_session"]
