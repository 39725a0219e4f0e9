"""Real processes that give way, as the kernel sees them."""

import subprocess
import sys

from inference import priority
from tests.processes import kernel_groups_sessions, niceness_of_session

GIVE_WAY = """
import os
from inference import priority
from tests.processes import niceness_of_session
before = os.nice(0)
{first}
priority.give_way(7)
print(os.nice(0) - before, niceness_of_session())
"""


def told(first="", **options):
    """By how much the process is nicer then, and how nice its session is."""
    command = [sys.executable, "-c", GIVE_WAY.format(first=first)]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_leader_of_a_session_lowers_its_session():
    before = niceness_of_session()
    assert told(start_new_session=True) == [
        "7",
        "7" if kernel_groups_sessions() else "None",
    ]
    assert niceness_of_session() == before


def test_who_leads_none_leaves_the_session_to_those_who_live_in_it():
    assert told() == ["7", str(niceness_of_session())]


def test_where_the_kernel_refuses_the_process_runs_all_the_same(tmp_path):
    refused = f"priority._GROUP = priority.Path({str(tmp_path)!r})"
    assert told(refused, start_new_session=True)[0] == "7"


def test_the_trainer_gives_way_to_vllm_and_both_to_all_else():
    assert 0 < priority.VLLM < priority.TRAINER <= 19
