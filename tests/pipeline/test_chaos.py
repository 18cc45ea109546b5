"""One run of what `make chaos` does fifty times."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.ray
def test_random_kills_lose_nothing_and_fail_no_sound_file():
    words = [sys.executable, "-m", "tests.chaos", "--runs", "1", "--seed", "3"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(": whole, killed: ") == 1
