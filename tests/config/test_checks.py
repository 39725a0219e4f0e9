"""What is checked before anything starts, and whether the sentence helps."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from dotenv import dotenv_values

from config.ops import checks
from config.ops.checks import Problem
from tests.config.conftest import CONFIG
from tests.waiting import wait_for

TETHER = CONFIG / "ops" / "tether.py"
NAMES = ("DATA_DIR", "HOST", "PORT", "MODEL", "REDIS_URL", "VLLM_URLS", "VLLM_PORT")


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_a_taken_port_is_told_with_its_owner_and_a_way_out():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Problem) as problem:
            checks.check_port("127.0.0.1", port)
    assert f"Port {port} is taken by process {os.getpid()}" in str(problem.value)
    other = port + 10 if port <= 65525 else port - 10
    assert f" PORT={other} make run" in str(problem.value)


def ports(port, vllm_port, vllm_urls=""):
    return checks.Settings(
        data_dir=Path("var"),
        host="127.0.0.1",
        port=port,
        model="",
        redis_url="",
        vllm_urls=vllm_urls,
        vllm_port=vllm_port,
    )


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_advice_for_the_usual_port_leads_to_a_stack_that_starts():
    """8000 is taken: 8001, the next one, would be taken from our own vLLM."""
    assert checks._other(8000) == 8010
    assert checks._other(65530) == 65520


def test_one_port_for_the_web_server_and_vllm_is_refused(free_port):
    with pytest.raises(Problem, match=f"PORT and VLLM_PORT are both {free_port}"):
        checks.check_ports(ports(free_port, free_port))
    checks.check_ports(ports(free_port, free_port, "http://elsewhere:8001"))


def test_a_taken_port_of_vllm_is_told_before_anything_starts(free_port):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(Problem, match=r"VLLM_PORT=\d+ make run") as problem:
            checks.check_ports(ports(free_port, taken))
        assert f"Port {taken} is taken by process {os.getpid()}" in str(problem.value)
        checks.check_ports(ports(free_port, taken, "http://elsewhere:8001"))


def test_a_port_just_freed_is_no_obstacle():
    """Closed connections linger for a minute; a second start must not wait for it."""
    with socket.socket() as server:
        # gunicorn sets this too; without it the port would stay taken for a minute.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()
            client.recv(1)
    checks.check_port("127.0.0.1", port)


def test_an_address_of_another_machine_is_told():
    with pytest.raises(Problem, match="HOST must be an address of this machine"):
        checks.check_port("192.0.2.1", 8000)


def test_a_nearly_full_disk_is_told_with_figures(tmp_path: Path):
    with pytest.raises(Problem, match=r"needs 1048576.0 GB and .* GB are free"):
        checks.check_disk(tmp_path / "not" / "yet", 2**50, "installing")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(Problem, match="Cannot write to DATA_DIR"):
        checks.make_data_dir(tmp_path / "file" / "data")


def test_a_new_data_folder_is_for_its_owner_alone(tmp_path: Path):
    checks.make_data_dir(tmp_path / "new" / "data")
    assert (tmp_path / "new" / "data").stat().st_mode & 0o777 == 0o700


def test_a_second_instance_on_the_same_data_is_refused(tmp_path: Path):
    checks.make_data_dir(tmp_path)
    lock = checks.lock_instance(tmp_path)
    with pytest.raises(Problem) as problem:
        checks.lock_instance(tmp_path)
    assert f"already runs on {tmp_path} (process {os.getpid()})" in str(problem.value)
    assert "DATA_DIR=var2 PORT=8010 VLLM_PORT=8011 make run" in str(problem.value)
    os.close(lock)
    os.close(checks.lock_instance(tmp_path))


def test_a_start_waits_for_the_parts_of_a_killed_one(tmp_path: Path):
    """The tether holds the lock until its part is gone, then the start goes on."""
    checks.make_data_dir(tmp_path)
    lock = checks.parts_lock(tmp_path)
    command = [sys.executable, "-S", TETHER, "--lock", lock, "--", "sleep", "600"]
    part = subprocess.Popen(command)
    try:
        wait_for("the tether", lambda: checks._holders(tmp_path) and lock.exists())

        def refused() -> str:
            try:
                checks.wait_for_earlier_parts(tmp_path, seconds=0.2)
            except Problem as problem:
                return str(problem)
            return ""

        assert f"processes {part.pid}" in wait_for("the tether's lock", refused)
    finally:
        part.send_signal(signal.SIGTERM)
        part.wait()
    checks.wait_for_earlier_parts(tmp_path, seconds=10)


@pytest.mark.parametrize("name", ["PORT", "VLLM_PORT"])
@pytest.mark.parametrize("port", ["", "0", "70000", "http", "-1", "8000 "])
def test_a_port_that_is_none_is_told(name, port: str, tmp_path: Path, monkeypatch):
    monkeypatch.setenv(name, port)
    if port == "":
        settings = checks.read_settings(tmp_path)
        assert (settings.port, settings.vllm_port) == (8000, 8001)
    else:
        with pytest.raises(Problem, match=f"^{name} .*must be a number from 1 to"):
            checks.read_settings(tmp_path)


def test_the_environment_wins_over_the_env_file(tmp_path: Path, monkeypatch):
    (tmp_path / ".env").write_text(
        "# a comment\nexport PORT=9001\nDATA_DIR='my data'\n"
        'MODEL="a/b" # why\nVLLM_URLS=http://a:1,http://b:2 # two\n'
    )
    monkeypatch.setenv("PORT", "9002")
    settings = checks.read_settings(tmp_path)
    assert settings.port == 9002
    assert settings.data_dir == tmp_path / "my data"
    assert settings.model == "a/b"
    assert settings.vllm_urls == "http://a:1,http://b:2"


def as_django_reads_them() -> list[str]:
    script = (
        "from config import settings as s\n"
        "print(s.DATA_DIR, s.HOST, s.PORT, s.MODEL, s.REDIS_URL, ','.join(s.VLLM_URLS),"
        " s.VLLM_PORT, s.DATABASES['default']['ENGINE'], sep='\\n')"
    )
    asked = subprocess.run(
        [sys.executable, "-c", script],
        cwd=checks.ROOT,
        env={**os.environ, "SECRET_KEY": "x"},
        capture_output=True,
        text=True,
        check=True,
    )
    return asked.stdout.splitlines()


def test_a_setting_without_a_value_is_not_set_for_either(monkeypatch):
    for name in (*NAMES, "DATABASE_URL", "HTTPS", "VLLM_TIMEOUT"):
        monkeypatch.setenv(name, "")
    ours = checks.read_settings()
    assert ours.data_dir == checks.ROOT / "var"
    usual = [str(ours.data_dir), "127.0.0.1", "8000", "", "", "", "8001"]
    assert as_django_reads_them() == [*usual, "config.sqlite"]


def test_django_reads_the_same_settings(tmp_path: Path, monkeypatch):
    """Two readers of one file: the supervisor's and Django's."""
    env = {
        "DATA_DIR": str(tmp_path / "data"),
        "HOST": "0.0.0.0",
        "PORT": "8123",
        "MODEL": "a/b",
        "REDIS_URL": "redis://somewhere/1",
        "VLLM_URLS": "http://a:1,http://b:2",
        "VLLM_PORT": "8124",
        "DATABASE_URL": "",
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    ours = checks.read_settings()
    expected = [str(ours.data_dir), ours.host, str(ours.port), ours.model]
    expected += [ours.redis_url, ours.vllm_urls, str(ours.vllm_port)]
    assert as_django_reads_them() == [*expected, "config.sqlite"]
    assert ours.address == "http://127.0.0.1:8123", "0.0.0.0 is no address to visit"


def test_a_line_of_the_example_taken_as_it_stands_changes_nothing(
    tmp_path: Path, monkeypatch
):
    """By the supervisor's reader, and by dotenv, through which Django reads the file."""
    example = (checks.ROOT / ".env.example").read_text()
    names = re.findall(r"^# ([A-Z_]+)=", example, re.M)
    for name in names:
        monkeypatch.delenv(name, raising=False)
    usual = checks.read_settings(tmp_path)
    taken = re.sub(r"^# (?=[A-Z_]+=)", "", example, flags=re.M)
    (tmp_path / ".env").write_text(taken)
    assert checks.read_settings(tmp_path) == usual
    assert usual.redis_url == usual.vllm_urls == ""  # both are then started here
    read = checks.read_env_file(tmp_path / ".env")
    assert read == dict(dotenv_values(tmp_path / ".env"))
    assert set(read) == set(names)


def test_an_empty_setting_is_one_that_is_not_given(tmp_path: Path):
    example = (checks.ROOT / ".env.example").read_text()
    names = re.findall(r"^# ([A-Z_]+)=", example, re.M)
    others = {n: v for n, v in os.environ.items() if n not in names}
    # What all of them are, but for what is kept in DATA_DIR.
    script = (
        "from config import settings as s\n"
        f"print({{n: getattr(s, n, '') for n in {names} if n != 'SECRET_KEY'}},"
        " s.DATABASES)"
    )

    def told(**env: str) -> str:
        asked = subprocess.run(
            [sys.executable, "-c", script],
            cwd=checks.ROOT,
            env=others | env,
            capture_output=True,
            text=True,
        )
        assert asked.returncode == 0, asked.stderr[-500:]
        return asked.stdout

    given = {"DATA_DIR": str(tmp_path), "SECRET_KEY": "x"}
    assert told(**dict.fromkeys(names, "") | given) == told(**given)
