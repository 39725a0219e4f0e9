"""The vLLM process group on this machine: its command line, start and end.

Decides nothing: when it runs is supervisor.py's, what is loaded is tending.py's.
"""

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from django.conf import settings
from django.utils.translation import gettext as _

from inference.adapters import lora_modules
from inference.base import base_config, weight_files
from inference.errors import InferenceError
from inference.faults import told
from inference.models import Policy
from inference.replicas import has_cpu_build
from inference.vllm_process import PARENT

logger = logging.getLogger(__name__)

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank."""
DRAIN_SECONDS = 30
"""How long answers that are being sampled may go on after SIGTERM."""
SMALL = 4 * 1024**3
"""Bytes of weights in float32 up to which a CPU serves in float32."""
LOG_KEPT = 20 * 1024 * 1024
"""Bytes of its log beyond which a new one is begun; the last one before is kept."""


def largest_rank() -> int:
    """VLLM_MAX_LORA_RANK, or the next size that vLLM knows."""
    for rank in LORA_RANKS:
        if rank >= settings.VLLM_MAX_LORA_RANK:
            return rank
    return LORA_RANKS[-1]


def serving_dtype(base: Policy) -> str:
    """The dtype that vLLM computes in: MODEL_DTYPE, or what `auto` comes to.

    On CPUs float32 for small models, where it costs little and makes log-probs equal
    the trainer's; else as vLLM chooses, which halves float32 weights.
    """
    if settings.MODEL_DTYPE != "auto":
        return settings.MODEL_DTYPE
    config = base_config(base.base_model)
    stored = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    if not settings.VLLM_URLS and has_cpu_build():
        size = sum(file.stat().st_size for file in weight_files(base.base_model))
        in_float32 = size if stored == "float32" else 2 * size
        return "float32" if in_float32 <= SMALL else "bfloat16"
    return "bfloat16" if stored == "float32" else stored


def vllm_command(base: Policy, port: int) -> list[str]:
    """The command that serves `base` on 127.0.0.1; VLLM_ARGS come last and win."""
    config = base_config(base.base_model)
    longest = int(config.get("max_position_embeddings") or settings.VLLM_MAX_MODEL_LEN)
    options = {
        "--model": base.base_model,
        "--served-model-name": base.name,
        "--host": "127.0.0.1",
        "--port": str(port),
        "--dtype": serving_dtype(base),
        "--max-model-len": str(min(settings.VLLM_MAX_MODEL_LEN, longest)),
        "--max-loras": "4",
        # More than are ever registered: an evicted adapter is read again from disk.
        "--max-cpu-loras": "16",
        "--max-lora-rank": str(largest_rank()),
        # A model folder's own sampling defaults must not leak into ours.
        "--generation-config": "vllm",
        "--shutdown-timeout": str(DRAIN_SECONDS),
    }
    flags = ["--enable-lora", "--disable-uvicorn-access-log"]
    if modules := lora_modules(Path(base.base_model)):
        # With an adapter on the head, vLLM 0.32 dies of a canary (prompt log-probs)
        # that meets other answers in a batch: one row of the head's adapter for each
        # request, one row of the prompt for each token.
        flags += ["--lora-target-modules", *modules]
    if has_cpu_build():
        flags.append("--enforce-eager")
        options |= {"--max-num-seqs": "16", "--max-num-queued-reqs": "64"}
    else:
        beside = settings.VLLM_WHILE_TRAINING == "keep"
        options |= {
            "--gpu-memory-utilization": "0.45" if beside else "0.9",
            "--max-num-queued-reqs": "1024",
        }
    return [
        sys.executable,
        "-m",
        "inference.vllm_process",
        *(part for option in options.items() for part in option),
        *flags,
        *settings.VLLM_ARGS,
    ]


def vllm_environment() -> dict[str, str]:
    env = {
        **os.environ,
        PARENT: str(os.getpid()),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    # Opens endpoints that pause the engine and run any code in it.
    env.pop("VLLM_SERVER_DEV_MODE", None)
    env.pop("VLLM_API_KEY", None)
    if settings.VLLM_API_KEY:
        env["VLLM_API_KEY"] = settings.VLLM_API_KEY
    if has_cpu_build():
        # Without it the first request with log-probs compiles C++ for 13 s.
        env["TORCHDYNAMO_DISABLE"] = "1"
        env["VLLM_CPU_KVCACHE_SPACE"] = str(settings.VLLM_KV_CACHE_GIB)
    return env


class Server:
    """The running vLLM, its whole process group. Use it from the main thread only."""

    def __init__(self, base: Policy, port: int) -> None:
        """Starts it. Raises InferenceError if the port is taken."""
        _check_port(port)
        self.log = settings.DATA_DIR / "logs" / "vllm-server.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = vllm_command(base, port)
        # vLLM leaves its sockets behind; here, where their paths stay short enough.
        self._sockets = tempfile.mkdtemp(prefix="tiebreak-vllm-")
        try:
            with self.log.open("ab") as log:
                self._log_start = log.tell()
                self._process = subprocess.Popen(
                    command,
                    cwd=settings.BASE_DIR,
                    env={"VLLM_RPC_BASE_PATH": self._sockets, **vllm_environment()},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Its own group, so that Ctrl-C in a terminal reaches only us.
                    start_new_session=True,
                )
        except OSError:
            shutil.rmtree(self._sockets, ignore_errors=True)
            raise
        self.started_at = time.monotonic()

    @property
    def pid(self) -> int:
        return self._process.pid

    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started_at

    def bound_log(self) -> None:
        """Begin the log anew where it has grown long.

        vLLM has it open, for appending, as long as it runs: so it is copied and emptied,
        not renamed. What is written between the two is lost, and so is all of it where
        the disk has no room for the copy: an empty log frees some.
        """
        if self.log.stat().st_size > LOG_KEPT:
            try:
                shutil.copyfile(self.log, self.log.with_suffix(".log.1"))
            except OSError as error:
                logger.warning("vllm-server.log begins anew, unkept: %s", told(error))
            os.truncate(self.log, 0)
            self._log_start = 0

    def exit_status(self) -> int | None:
        """None while it runs; as subprocess has it, so -9 for SIGKILL.

        vLLM ends with status 0 when its engine dies: any exit is a death.
        """
        return self._process.poll()

    def stop(self, while_waiting: Callable[[], object]) -> None:
        """SIGTERM, the answers under way finish, then SIGKILL to what is left.

        `while_waiting` is called about once a second; returning True ends the patience.
        """
        if self._process.poll() is None:
            # To the API server alone: it tells its engine when to stop.
            self._process.terminate()
            deadline = time.monotonic() + DRAIN_SECONDS + 10
            while self._process.poll() is None and time.monotonic() < deadline:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(1.0)
                if while_waiting():
                    break
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole group; returns when its leader has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def last_words(self) -> str:
        """The last line of its log that names an error, else "" (for a person)."""
        with self.log.open("rb") as log:
            log.seek(max(self._log_start, self.log.stat().st_size - 64 * 1024))
            lines = log.read().decode("utf-8", errors="replace").splitlines()
        for line in reversed(lines):
            words = line.split("] ", 1)[-1].strip()
            if "Error" in words and "EngineDeadError" not in words:
                return words[:300]
        return ""


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise InferenceError(
                _(
                    "Port %(port)s is taken by another program; set VLLM_PORT to a free one."
                )
                % {"port": port}
            ) from error
