"""What tests ask of the machine: a port that is free, whether a process runs, how nice it is."""

import socket
import subprocess
import sys
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def niceness_of_session(pid: int | str = "self") -> int | None:
    """How nice the process's session is (autogroup, sched(7)).

    None where the kernel does not group by session, which leaves the file away, and in a
    session that began with the machine or its container, which belongs to no group.
    """
    path = Path(f"/proc/{pid}/autogroup")
    said = path.read_text().split() if path.exists() else []
    return int(said[-1]) if said else None


def kernel_groups_sessions() -> bool:
    """Whether a new session has a niceness of its own; an old one's is not to be asked."""
    ask = "from tests.processes import niceness_of_session as n; raise SystemExit(n() is None)"
    return (
        subprocess.run([sys.executable, "-c", ask], start_new_session=True).returncode
        == 0
    )
