"""What the heap keeps while a run trains, and gives back: counted in page faults and
resident pages of a process of its own, whose malloc no other test has changed."""

import subprocess
import sys

COMES_AND_GOES = """
import resource, torch
from training.dpo.machine import give_back_memory, keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

def come_and_go():
    for _ in range(50):
        tensors = [torch.ones(1 << 20) for _ in range(3)]  # of 4 MiB
        del tensors

torch.set_num_threads(1)
keep_freed_memory()
come_and_go()
before = faults()
come_and_go()
print(faults() - before)
held = resident()
give_back_memory()
print(held - resident())
"""
PAGES = 50 * 3 * (4 << 20) // 4096
"""Touched in one round, if none of them were kept."""


def test_freed_blocks_are_kept_from_step_to_step_and_given_back_once():
    """The heap holds the three blocks, 12 MiB, and gives them back when asked."""
    told = subprocess.run(
        [sys.executable, "-c", COMES_AND_GOES],
        capture_output=True,
        text=True,
        check=True,
    )
    faults, given_back = map(int, told.stdout.split())
    assert faults < PAGES / 100
    assert given_back > 8 << 20
