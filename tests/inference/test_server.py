"""How vLLM is started: its options, its environment, the dtype and rank it serves."""

import itertools
import shlex
import socket

import pytest
from django.core.management import call_command

from inference import server
from inference.models import Replica
from inference.server import largest_rank, serving_dtype, vllm_command
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db


def options_of(command):
    pairs = itertools.pairwise(command)
    return {a: b for a, b in pairs if a.startswith("--")}


def test_on_a_cpu_it_is_eager_float32_and_bounded(base, settings, monkeypatch):
    monkeypatch.setattr(server, "has_cpu_build", lambda: True)
    settings.VLLM_ARGS = ["--max-num-seqs", "4"]
    settings.VLLM_MAX_LORA_RANK = 20
    command = vllm_command(base, 8001)
    options = options_of(command)
    assert command[1:3] == ["-m", "inference.vllm_process"]
    assert options["--served-model-name"] == base.name
    assert options["--dtype"] == "float32"
    assert options["--host"] == "127.0.0.1"
    assert options["--max-lora-rank"] == "32"  # the next that vLLM knows
    assert options["--max-model-len"] == "64"  # the model's own, below 2048
    assert options["--generation-config"] == "vllm"
    assert "--enforce-eager" in command
    assert command[-2:] == ["--max-num-seqs", "4"]  # the last one wins
    # The head is not adapted, see vllm_command.
    at = command.index("--lora-target-modules")
    assert command[at + 1 : at + 4] == ["q_proj", "up_proj", "--enforce-eager"]
    env = server.vllm_environment()
    assert env["TORCHDYNAMO_DISABLE"] == "1"
    assert env["VLLM_CPU_KVCACHE_SPACE"] == "1"


def test_on_a_gpu_it_compiles_and_takes_its_share(base, settings, monkeypatch):
    monkeypatch.setattr(server, "has_cpu_build", lambda: False)
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    command = vllm_command(base, 8001)
    assert "--enforce-eager" not in command
    assert options_of(command)["--gpu-memory-utilization"] == "0.45"
    settings.VLLM_WHILE_TRAINING = "stop"
    assert options_of(vllm_command(base, 8001))["--gpu-memory-utilization"] == "0.9"
    assert "TORCHDYNAMO_DISABLE" not in server.vllm_environment()


def test_the_key_is_not_on_the_command_line_and_the_dev_mode_is_off(
    base, settings, monkeypatch
):
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    settings.VLLM_API_KEY = "a secret"
    assert "a secret" not in " ".join(vllm_command(base, 8001))
    env = server.vllm_environment()
    assert env["VLLM_API_KEY"] == "a secret"
    assert "VLLM_SERVER_DEV_MODE" not in env


def test_how_a_server_elsewhere_is_started_is_shown(base, settings, capsys):
    settings.VLLM_ARGS = ["--host", "0.0.0.0"]
    settings.VLLM_API_KEY = "a secret"
    call_command("run_vllm", "--show")
    allow, *command = shlex.split(capsys.readouterr().out)
    assert allow == "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
    assert command == vllm_command(base, settings.VLLM_PORT)
    assert command[-2:] == ["--host", "0.0.0.0"]
    assert "a secret" not in command
    assert not Replica.objects.exists()  # nothing was started


def test_the_dtype_is_what_was_asked_for_or_what_auto_comes_to(
    base, settings, monkeypatch
):
    monkeypatch.setattr(server, "has_cpu_build", lambda: True)
    assert serving_dtype(base) == "float32"
    monkeypatch.setattr(server, "SMALL", 10)
    assert serving_dtype(base) == "bfloat16"  # 10 bytes are too few for it
    settings.MODEL_DTYPE = "float16"
    assert serving_dtype(base) == "float16"


@pytest.mark.parametrize(
    ("asked", "given"), [(1, 1), (8, 8), (9, 16), (64, 64), (999, 512)]
)
def test_the_largest_rank_is_one_that_vllm_knows(settings, asked, given):
    settings.VLLM_MAX_LORA_RANK = asked
    assert largest_rank() == given


def test_the_log_of_a_server_that_runs_for_months_stays_short(
    base, monkeypatch, tmp_path
):
    """vLLM has it open all the time, and writes on in it; what was before is kept once."""
    monkeypatch.setattr(server, "LOG_KEPT", 1000)
    go_on = tmp_path / "go on"
    words = f"seq 1000; until [ -e '{go_on}' ]; do sleep .05; done; seq 7; sleep 600"
    monkeypatch.setattr(server, "vllm_command", lambda *of: ["sh", "-c", words])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = server.Server(base, port)
    try:
        wait_for("its words", lambda: running.log.read_text().endswith("\n1000\n"))
        running.bound_log()
        assert running.log.read_text() == ""
        go_on.touch()
        wait_for("more words", lambda: running.log.read_text().endswith("7\n"))
        running.bound_log()  # Short enough.
        assert running.log.read_text() == "1\n2\n3\n4\n5\n6\n7\n"
        kept = running.log.with_name("vllm-server.log.1").read_text().split()
        assert (len(kept), kept[-1]) == (1000, "1000")
    finally:
        running.kill()
