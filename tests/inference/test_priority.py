"""Real processes that give way, as the kernel sees them.

A session's niceness reads "none" where the kernel does not group by session: it has no such
file then or, where autogroup is switched off (sched(7)), an empty one.
"""

import subprocess
import sys
from pathlib import Path

from inference import priority

GROUP = Path("/proc/self/autogroup")
GIVE_WAY = """
import os
from inference import priority
before = os.nice(0)
{first}
priority.give_way(7)
group = priority.Path("/proc/self/autogroup")
said = group.read_text().split() if group.exists() else []
print(os.nice(0) - before, said[-1] if said else "none")
"""


def told(first="", **options):
    """By how much the process is nicer then, and how nice its session is."""
    command = [sys.executable, "-c", GIVE_WAY.format(first=first)]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def group():
    said = GROUP.read_text().split() if GROUP.exists() else []
    return said[-1] if said else "none"


def test_the_leader_of_a_session_lowers_its_session():
    before = group()
    assert told(start_new_session=True) == ["7", "none" if before == "none" else "7"]
    assert group() == before


def test_who_leads_none_leaves_the_session_to_those_who_live_in_it():
    assert told() == ["7", group()]


def test_where_the_kernel_refuses_the_process_runs_all_the_same(tmp_path):
    refused = f"priority._GROUP = priority.Path({str(tmp_path)!r})"
    assert told(refused, start_new_session=True)[0] == "7"


def test_the_trainer_gives_way_to_vllm_and_both_to_all_else():
    assert 0 < priority.VLLM < priority.TRAINER <= 19
