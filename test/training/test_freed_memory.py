"""A training step finds the memory that the one before had, instead of having the system make it anew."""

import subprocess
import sys

import pytest

STEPS = """
import resource
import numpy as np
from training.running.freed_memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        arrays = [np.full(2**23, 1.0, np.float32) for _ in range(4)]  # of 32 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
keep_freed_memory()
faults()
print(before, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library is another one there")
def test_memory_of_one_step_is_taken_again_by_the_next_without_page_faults():
    said = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True).stdout
    without, kept = map(int, said.split())
    assert without > 1000 and kept < without / 100
