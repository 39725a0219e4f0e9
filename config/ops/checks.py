"""What must be true before anything starts, and the sentence for when it is not.

Reads the handful of settings needed before Django exists (environment first, then
`.env`, like config/settings.py) and looks at the port, the disk and the locks.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOM_TO_RUN = 1 * 1024**3
"""Bytes: a round's checkpoints, adapters and logs, with some air."""


class Problem(Exception):
    """Something the person at the terminal can put right; the text says how."""


@dataclass(frozen=True)
class Settings:
    """The settings that matter before Django; config/settings.py has all of them."""

    data_dir: Path
    host: str
    port: int
    model: str
    redis_url: str
    vllm_urls: str
    vllm_port: int

    @property
    def address(self) -> str:
        """Where a person on this machine finds the web server."""
        anywhere = self.host in ("", "0.0.0.0", "::")
        host = "127.0.0.1" if anywhere else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


def read_env_file(path: Path) -> dict[str, str]:
    """`NAME=value` lines of a .env file; comments, `export` and quotes as usual."""
    values: dict[str, str] = {}
    if not path.exists():
        return values
    for line in path.read_text(encoding="utf-8").splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if not equals or name.startswith("#"):
            continue
        quoted = value.strip()
        if quoted[:1] in ("'", '"') and quoted[0] in quoted[1:]:
            value = quoted[1:].partition(quoted[0])[0]
        else:
            # Looked at unstripped: of "NAME=   # words" nothing is the value.
            value = re.sub(r"\s#.*", "", value).strip()
        values[name.strip()] = value
    return values


def read_settings(root: Path = ROOT) -> Settings:
    """Raises Problem when PORT or VLLM_PORT is no port."""
    values = {**read_env_file(root / ".env"), **os.environ}
    return Settings(
        data_dir=(root / (values.get("DATA_DIR") or "var")).resolve(),
        host=values.get("HOST") or "127.0.0.1",
        port=_port(values, "PORT", "8000"),
        model=values.get("MODEL", ""),
        redis_url=values.get("REDIS_URL", ""),
        vllm_urls=values.get("VLLM_URLS", ""),
        vllm_port=_port(values, "VLLM_PORT", "8001"),
    )


def _port(values: dict[str, str], name: str, default: str) -> int:
    port = values.get(name) or default
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise Problem(f"{name} is {port!r}, and must be a number from 1 to 65535.")
    return int(port)


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(table, encoding="ascii") as lines:
            for fields in (line.split() for line in lines):
                # Column 1 is "address:port" in hex, column 3 the state, 0A = listening.
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(fields[9])
    return inodes


def port_owner(port: int) -> str:
    """ "process 123 (its command)" of who listens there, or "" where not knowable."""
    wanted = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{fd}") in wanted:
                        command = Path(f"/proc/{pid}/cmdline").read_bytes()
                        words = command.replace(b"\0", b" ").decode(errors="replace")
                        return f"process {pid} ({words.strip()[:120]})"
    return ""


def check_ports(settings: Settings) -> None:
    """Raises Problem when the web server, or the vLLM started here, cannot listen."""
    check_port(settings.host, settings.port)
    if settings.vllm_urls:
        return
    if settings.vllm_port == settings.port:
        raise Problem(
            f"PORT and VLLM_PORT are both {settings.port}. The web server and vLLM need "
            f"a port each: VLLM_PORT={_other(settings.port)} make run"
        )
    check_port("127.0.0.1", settings.vllm_port, "VLLM_PORT")


def _other(port: int) -> int:
    """To try instead. Not the next one: that of 8000 is vLLM's."""
    return port + 10 if port + 10 < 65536 else port - 10


def check_port(host: str, port: int, name: str = "PORT") -> None:
    """Raises Problem when nothing can listen on host:port, the setting `name`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As gunicorn does: connections of an earlier run that linger are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                owner = port_owner(port) or "another program"
                raise Problem(
                    f"Port {port} is taken by {owner}. End it, or choose another port: "
                    f"{name}={_other(port)} make run"
                ) from None
            if error.errno == errno.EACCES:
                raise Problem(
                    f"Port {port} may be opened by root alone. Choose one above 1023: "
                    f"{name}={8000 if name == 'PORT' else 8001} make run"
                ) from None
            raise Problem(
                f"Cannot listen on HOST={host}, port {port}: {error.strerror or error}. "
                "HOST must be an address of this machine (127.0.0.1: this machine only)."
            ) from None


def check_disk(folder: Path, needed: int, purpose: str) -> None:
    """Raises Problem when the disk of `folder` has fewer than `needed` bytes free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Problem(
            f"The disk of {folder} is nearly full: {purpose} needs "
            f"{needed / 1024**3:.1f} GB and {free / 1024**3:.1f} GB are free. Make room, "
            "or put the data elsewhere with DATA_DIR=/another/disk make run"
        )


def make_data_dir(data_dir: Path) -> None:
    """Creates DATA_DIR and what the stack keeps in it. Raises Problem if it cannot."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (data_dir / "logs", data_dir / "run"):
            folder.mkdir(exist_ok=True)
        (data_dir / "redis").mkdir(mode=0o700, exist_ok=True)
        probe = data_dir / "run" / "writable"
        probe.write_text("yes")
        probe.unlink()
    except OSError as error:
        raise Problem(
            f"Cannot write to DATA_DIR={data_dir}: {error.strerror}. Give it to this "
            "user, or choose another folder: DATA_DIR=/another/folder make run"
        ) from None


def lock_instance(data_dir: Path) -> int:
    """Take DATA_DIR for this process; the open lock, kept until the process ends.

    Raises Problem when another instance has it.
    """
    lock = os.open(data_dir / "run" / "instance.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(lock, 32).decode().strip() or "?"
        os.close(lock)
        raise Problem(
            f"Tiebreak already runs on {data_dir} (process {pid}). Stop that one "
            "(Ctrl-C where it runs, or kill its process), or give this one a folder and "
            "ports of its own: DATA_DIR=var2 PORT=8010 VLLM_PORT=8011 make run"
        ) from None
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock


def parts_lock(data_dir: Path) -> Path:
    """The file that every running part holds a shared lock on (see tether.py)."""
    return data_dir / "run" / "parts.lock"


def wait_for_earlier_parts(data_dir: Path, seconds: float = 20.0) -> None:
    """Parts of a killed instance end by themselves in seconds: wait for them.

    Raises Problem when they do not.
    """
    lock = os.open(parts_lock(data_dir), os.O_RDWR | os.O_CREAT, 0o600)
    until = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    raise Problem(
                        f"Parts of an earlier start on {data_dir} are still running: "
                        f"processes {', '.join(_holders(data_dir)) or 'unknown'}. End "
                        "them with kill, then run the same command again."
                    ) from None
                time.sleep(0.1)
    finally:
        os.close(lock)


def _holders(data_dir: Path) -> list[str]:
    path = str(parts_lock(data_dir)).encode()
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if path in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found
