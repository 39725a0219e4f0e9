"""Real processes for the supervisor's tests, all of them ended afterwards."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import is_alive
from tests.waiting import wait_for

HERE = Path(__file__).parent
CONFIG = HERE.parents[1] / "config"


def parent_of(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


class Running:
    """A supervisor with dummy parts, and the journal they write."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "data"
        self.journal = folder / "journal"
        self.output = folder / "output"
        self.journal.touch()

    def part(self, name: str, *what: str, **fields: Any) -> dict[str, Any]:
        dummy = [sys.executable, "-S", str(HERE / "dummy_part.py")]
        command = [*dummy, str(self.journal), name, *what]
        return {"name": name, "command": command, "order": 20} | fields

    def start(self, *parts: dict[str, Any]) -> None:
        script = [sys.executable, str(HERE / "run_parts.py"), str(CONFIG)]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*script, str(self.data_dir), json.dumps(parts)],
                stdout=output,
                stderr=output,
                # The terminal's group, for Ctrl-C; the test's own must not get it.
                start_new_session=True,
            )

    def lines(self, word: str) -> list[tuple[str, int]]:
        """(name, pid) of each journal line with this word, in order."""
        split = (line.split() for line in self.journal.read_text().splitlines())
        return [(name, int(pid)) for found, name, pid in split if found == word]

    def pid(self, name: str, count: int = 1) -> int:
        """The pid of the part's `count`-th start, waited for."""

        def starts() -> list[int]:
            return [pid for found, pid in self.lines("start") if found == name]

        wait_for(f"start {count} of {name}", lambda: len(starts()) >= count)
        return starts()[count - 1]

    def says(self, words: str) -> str:
        """Waits until the terminal shows `words`; everything shown so far."""
        wait_for(f"{words!r} at the terminal", lambda: words in self.output.read_text())
        return self.output.read_text()

    def all_gone(self) -> None:
        """Waits until no process that ever wrote the journal lives."""
        pids = {pid for _, pid in self.lines("start")}
        wait_for("all parts to be gone", lambda: not any(map(is_alive, pids)))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    yield running
    if running.process.poll() is None:
        running.process.send_signal(signal.SIGTERM)
        try:
            running.process.wait(20)
        except subprocess.TimeoutExpired:
            running.process.kill()
    for _, pid in running.lines("start"):
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


class RedisPart:
    """The real redis part, on a socket with a short path."""

    def __init__(self, data_dir: Path, socket: Path) -> None:
        from config.ops.parts import redis_part

        part = redis_part(data_dir, socket)
        self.socket = socket
        self.fields = {
            "name": part.name,
            "command": [str(word) for word in part.command],
            "order": part.order,
        }

    def client(self) -> Any:
        """A client once the server answers, else None."""
        import redis

        client = redis.Redis(unix_socket_path=str(self.socket))
        try:
            client.ping()
        except redis.RedisError:
            return None
        return client


@pytest.fixture
def redis_part(running: Running) -> Iterator[RedisPart]:
    with tempfile.TemporaryDirectory(prefix="tb-redis-") as folder:
        yield RedisPart(running.data_dir, Path(folder) / "redis.sock")
