"""What malloc does with freed memory; in a process of its own, for it cannot be taken back."""

import platform
import subprocess
import sys

import pytest

FILL_TWICE = """
import resource, sys
from rawnind.pipeline.malloc import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    filled = bytes(range(256)) * (100 << 12)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    del filled
print(faults)
"""


def faults(how: str) -> int:
    """Page faults of filling 100 MiB, when as much was filled and freed before."""
    done = subprocess.run([sys.executable, "-c", FILL_TWICE, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory as it likes")
def test_freed_memory_is_used_again_without_asking_the_system():
    assert 10 * faults("kept") < faults("freed")
