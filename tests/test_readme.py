"""What README.md promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.ray
def test_every_command_and_every_example_runs_one_after_the_other(cluster, tmp_path):
    commands = [line.partition("#")[0].strip() for line in blocks("sh")[0].splitlines()]
    assert commands[0] == "source .venv/bin/activate"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "RAY_ADDRESS": cluster}
    for command in commands[1:]:
        done = subprocess.run(
            command.split(), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
    for example in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", example],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{example}: {done.stderr}"
        assert done.stdout


def test_every_make_target_that_it_names_is_there():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?<=make )[a-z]+(?=[`\n])", README)) - {"python"} <= targets


def test_every_file_that_it_names_is_there():
    for name in re.findall(r"`((?:jobs|docs|rawnind|benchmarks)/[\w./]+)`", README):
        assert (ROOT / name).exists(), name


def test_the_cluster_file_passes_ray_s_own_check():
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    validate_config(prepare_config(config))
