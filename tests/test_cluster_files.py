"""The files that a cluster is started from: what a job uploads, cluster.yaml, the container, KubeRay's job, Grafana's board."""

import gzip
import json
import re
import shutil
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

from rawnind.capacity import Node
from rawnind.memory import worker_bytes
from rawnind.options import Options
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
        ubuntu = re.search(r"ubuntu-(\d+)\.04/", kind["node_config"]["ImageId"])[1]
        assert int(ubuntu) >= 24  # whose python3 is one that rawnind runs on
    assert any("constraints.txt" in command for command in config["setup_commands"])


def test_the_cluster_starts_the_version_of_ray_that_is_pinned():
    pinned = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    job = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pinned


def closed(schema):
    """A schema in which no object has fields that are not listed: Kubernetes would drop them without a word."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "properties" not in schema
    return found if is_open else {"additionalProperties": False, **found}


def test_the_job_on_kubernetes_is_what_kuberay_accepts():
    """The schema is that of KubeRay's resource definition of a RayJob, ray.io/v1 (Apache-2.0), without its descriptions."""
    published = ROOT / "tests/rayjob-crd-kuberay-1.7.0.json.gz"
    schema = closed(json.loads(gzip.decompress(published.read_bytes())))
    schema["properties"]["metadata"] = {"type": "object"}
    job = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())
    kuberay = jsonschema.Draft202012Validator(schema)  # the schema itself is not checked: that takes seconds
    kuberay.validate(job)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    job["spec"]["restartLimit"] = 3
    with pytest.raises(jsonschema.ValidationError, match="'restartLimit' was unexpected"):
        kuberay.validate(job)


def test_the_runtime_environment_of_the_page_installs_the_uploaded_project_with_its_pinned_versions():
    page = (ROOT / "docs/cluster.md").read_text()
    (text,) = re.findall(r"--runtime-env-json '(\{.*?\})' --", page, re.DOTALL)
    environment = RuntimeEnv(**json.loads(text))
    assert environment.has_pip()
    assert environment["config"]["setup_timeout_seconds"] >= 600
    constraints, _, project = (line.rpartition(" ")[2] for line in environment.pip_config()["packages"])
    folder = "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}"
    assert (constraints, project) == (f"{folder}/constraints.txt", folder)
    assert {"constraints.txt", "pyproject.toml"} <= set(INSTALLED)


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
    page = (ROOT / "docs/cluster.md").read_text()
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) GB \| ([\d.]+) GB \| (\d+) \|", page, re.MULTILINE)
    assert [int(side) for side, *_ in rows] == [12, 24, 45, 60, 100]
    for side, one, more, workers in rows:
        photo = int(side) * 10**6
        assert float(one) == round(worker_bytes(photo) / 1e9, 1)
        assert float(more) == round(worker_bytes(photo, 5) / 1e9, 1)
        node = Node(cpus=16, memory=32e9 * 0.7)
        assert int(workers) == node.slots(Options(), worker_bytes(photo))[1]
