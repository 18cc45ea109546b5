"""The programs in docs/examples, which docs/train.md shows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def run(environment, *words, launcher=()):
    finished = subprocess.run(
        [sys.executable, *launcher, *map(str, words)],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_a_model_of_ones_own_trains_in_plain_pytorch(folder):
    printed = run(dict(os.environ), EXAMPLES / "train_torch.py", folder.store.location, 3)
    assert [line.split(":")[0] for line in printed.splitlines()] == ["step 1", "step 2", "step 3"]


@pytest.mark.slow
def test_the_same_program_trains_on_two_processes(folder):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    printed = run(dict(os.environ), EXAMPLES / "train_torch.py", folder.store.location, 2, launcher=launcher)
    assert [printed.count(step) for step in ("step 1", "step 2")] == [2, 2]  # lines of two processes may mix


def test_a_model_of_ones_own_trains_with_rays_trainer(cluster, environment, folder, tmp_path):
    settings = environment | {"RAY_ADDRESS": cluster, "RAY_AUTH_MODE": "disabled", "HOME": str(tmp_path)}
    printed = run(settings, EXAMPLES / "train_ray.py", folder.store.location, 1, 2)
    assert "error=None" in printed
