"""The whole stack as `make run` starts it, for tests: own data folder, own ports.

Everything is real: supervisor, Redis, web, workers, beat, vLLM, trainer, the starter
model. What a test needs of its inside it asks through the API, the browser or
`manage.py`, as a person would.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from config.ops.tether import descendants
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
NOT_FOR_THE_STACK = {
    "SECRET_KEY",
    "STATIC_MANIFEST",
    "DJANGO_SETTINGS_MODULE",
    "DATABASE_URL",
    "MAKELEVEL",
}
IMPATIENT = {"ROUND_HEARTBEAT_LIMIT": "8", "ROUND_NUDGE_AFTER": "4"}
"""A dead worker is noticed sooner than a person would want to wait in a test."""


@dataclass
class Stack:
    data_dir: Path
    port: int
    vllm_port: int
    settings: Mapping[str, str] = field(default_factory=lambda: IMPATIENT)
    process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.data_dir.parent / "make-run.log"

    def environment(self) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if k not in NOT_FOR_THE_STACK}
        return {
            **env,
            "DATA_DIR": str(self.data_dir),
            "PORT": str(self.port),
            "VLLM_PORT": str(self.vllm_port),
            **self.settings,
        }

    def build_starter(self, steps: int) -> None:
        """The starter model by its own command, where `make run` then finds it."""
        folder = self.data_dir / "models" / "starter"
        command = [sys.executable, "-m", "inference.starter", folder]
        subprocess.run([*command, "--steps", str(steps)], cwd=ROOT, check=True)

    def start(self) -> None:
        """`make run`; returns when it has printed its ready line."""
        began = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "config/bootstrap.py", "run"],
                cwd=ROOT,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

        def is_ready() -> bool:
            said = self.log.read_bytes()[began:].decode(errors="replace")
            assert self.process and self.process.poll() is None, (
                f"make run ended:\n{said[-3000:]}"
            )
            return f"ready: {self.url}" in said

        wait_for("the ready line of make run", is_ready, 900)

    def stop(self, signum: int = signal.SIGTERM) -> None:
        assert self.process
        self.process.send_signal(signum)
        self.process.wait(120)

    def manage(self, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment(),
            input=stdin,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def ask(self, code: str) -> object:
        """What `code` (after the models' imports) puts into `answer`."""
        said = self.manage(
            "shell",
            "--no-imports",
            stdin="import json\n"
            "from annotation.models import *\n"
            "from training.models import *\n"
            "from inference.models import *\n"
            f"{code}\nprint(json.dumps(answer))\n",
        )
        return json.loads(said.strip().splitlines()[-1])

    def passwords(self) -> dict[str, str]:
        lines = (self.data_dir / "passwords.txt").read_text().splitlines()
        return dict(line.split(": ", 1) for line in lines)

    def descendants(self) -> list[int]:
        """Every living process below the supervisor."""
        assert self.process
        return list(descendants(self.process.pid))

    def processes(self, *words: str) -> list[int]:
        """Living processes below the supervisor whose command has all these words."""
        found = []
        for pid in self.descendants():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
            except OSError:
                continue
            if all(word in command for word in words) and "tether.py" not in command:
                found.append(pid)
        return found
