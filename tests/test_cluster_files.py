"""The files that a cluster is started from: what a job uploads, cluster.yaml, the container, KubeRay's job, Grafana's board."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.util import prepare_config, validate_config

from rawnind.memory import worker_bytes
from tests.test_docs import ROOT

DEPLOY = ROOT / "deploy"
INSTALLED = ["pyproject.toml", "constraints.txt", "README.md", "LICENSE"]
"""What the project is installed from, beside its packages."""
LEFT_BEHIND = [
    "pairs/Bayer_a_ISO100_sha1=0.dng", "out/manifest.parquet", "exported/a.npy", ".venv/bin/python", "photo.dng", "c.pt",
    "rawnind/__pycache__/a.pyc", "tests/test_a.py", "site/index.html",
]  # fmt: skip


def test_a_job_uploads_the_package_and_nothing_that_commands_leave_behind(tmp_path):
    folder = tmp_path / "checkout"
    for name in ("rawnind", "jobs"):
        shutil.copytree(ROOT / name, folder / name)
    for name in (".rayignore", ".gitignore", *INSTALLED):
        shutil.copy2(ROOT / name, folder / name)
    for name in LEFT_BEHIND:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(1000))
    package = tmp_path / "package.zip"
    create_package(str(folder), package, include_gitignore=True)
    shutil.unpack_archive(package, tmp_path / "uploaded")
    found = {
        str(path.relative_to(tmp_path / "uploaded"))
        for path in (tmp_path / "uploaded").rglob("*")
        if path.is_file()
    }
    own = {
        str(path.relative_to(ROOT))
        for name in ("rawnind", "jobs")
        for path in (ROOT / name).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert found == own | set(INSTALLED)
    assert package.stat().st_size < 5_000_000


def test_the_cluster_on_aws_is_what_ray_accepts():
    config = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    validate_config(config)
    kinds = config["available_node_types"]
    assert kinds["head"]["resources"]["CPU"] == 0
    assert kinds["training"]["resources"]["GPU"] == 1
    assert sum(kind["max_workers"] for kind in kinds.values()) <= config["max_workers"]
    for kind in kinds.values():
        assert kind["node_config"]["IamInstanceProfile"]
    assert any("constraints.txt" in command for command in config["setup_commands"])


def test_the_cluster_starts_the_version_of_ray_that_is_pinned():
    pinned = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    job = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pinned


def test_the_job_on_kubernetes_mounts_what_it_names():
    spec = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())["spec"]["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            volume["name"] for volume in pod["volumes"]
        }
        assert container["resources"]["requests"] == container["resources"]["limits"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("ignored", [".containerignore", ".rayignore"])
def test_the_container_is_given_what_it_copies(ignored):
    allowed = {
        line.lstrip("!/") for line in (ROOT / ignored).read_text().splitlines() if line.startswith("!")
    }
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]}
    assert copied <= allowed
    assert all((ROOT / name).exists() for name in copied)


def test_the_board_asks_for_metrics_that_exist_and_shows_each_of_them():
    board = json.loads((DEPLOY / "grafana.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"ray_rawnind_\w+", query)}
    listed = set(re.findall(r"`(ray_rawnind_\w+)`", Path(ROOT / "docs/metrics.md").read_text()))
    assert {re.sub(r"_(bucket|count)$", "", name) for name in asked} == listed
    assert all(query.count("(") == query.count(")") for query in queries)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_page_says_how_much_memory_a_worker_needs():
    page = " ".join((ROOT / "docs/cluster.md").read_text().split())
    stated = "0.8 GB for 12 megapixels, 1.2 for 24, 1.9 for 45, 2.4 for 60 and 3.8 for 100"
    assert stated in page
    numbers = re.findall(r"([\d.]+)(?: GB)? for (\d+)", stated)
    assert [float(size) for size, _ in numbers] == [
        round(worker_bytes(int(side) * 10**6) / 1e9, 1) for _, side in numbers
    ]
