"""One run of what `make chaos` does fifty times."""

import subprocess
import sys
from pathlib import Path


def test_random_kills_lose_nothing_and_blame_nobody():
    script = Path(__file__).parents[1] / "chaos.py"
    words = [sys.executable, str(script), "--runs", "1", "--seed", "3"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(": whole after") == 1
