"""One run of what `make chaos` does a hundred times, always the same one: where it fails, a change is at fault."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.ray
def test_an_accident_loses_nothing_and_fails_no_sound_file():
    words = [sys.executable, "-m", "tests.chaos", "--runs", "1", "--seed", "1844632610", "--first", "43"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    assert done.stdout.count(": whole") == 1
