"""The wheel: complete, installable beside its dependencies, and not dependent on anything that it does not declare."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: a build leaves folders behind."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("rawnind", "tests", "benchmarks", "jobs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", str(folder), cwd=folder)
    (found,) = (folder / "dist").iterdir()
    return found


def run(*command, cwd):
    """Standard output; without the checkout on Python's path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The `bin` of a new virtual environment with the wheel.

    The dependencies are this environment's, by a .pth file: installing Ray and torch takes minutes. Python does not read the
    .pth files of a folder that a .pth file names, so an editable rawnind of this environment is not seen.
    """
    folder = tmp_path_factory.mktemp("fresh")
    run(sys.executable, "-m", "venv", "--without-pip", str(folder), cwd=folder)
    python = folder / "bin/python"
    run(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps",
        str(wheel), cwd=folder)  # fmt: skip
    (target,) = folder.glob("lib/python*/site-packages")
    (target / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_the_wheel_has_the_package_its_types_and_its_licence_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = f"rawnind-{PROJECT['version']}.dist-info"
    files = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "rawnind").rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert {name for name in names if not name.startswith(info)} == files
    assert f"{info}/licenses/LICENSE" in names


def test_the_installed_wheel_makes_a_sample(installed, tmp_path):
    where = run(installed / "python", "-c", "import rawnind; print(rawnind.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    said = run(installed / "rawnind", "sample", "pairs", "--height", "256", "--width", "384", cwd=tmp_path)
    truth = json.loads((tmp_path / "pairs/truth.json").read_text())
    assert f"{len(truth['scenes'])} scenes" in said
    assert PROJECT["version"] in run(installed / "rawnind", "--version", cwd=tmp_path)


def test_every_package_that_is_imported_is_declared():
    declared = {re.match(r"[\w-]+", text)[0].lower() for text in PROJECT["dependencies"]}
    distributions = packages_distributions()
    for module in (ROOT / "rawnind").rglob("*.py"):
        for name in imported(module) - set(sys.stdlib_module_names) - {"rawnind"}:
            assert declared & {each.lower() for each in distributions[name]}, f"{module} imports {name}"


def imported(module):
    """Top-level packages that a module imports, anywhere in it."""
    for_ = ast.walk(ast.parse(module.read_text()))
    names = [alias.name for node in for_ if isinstance(node, ast.Import) for alias in node.names]
    names += [
        node.module for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.ImportFrom)
    ]
    return {name.partition(".")[0] for name in names}


def test_the_pinned_versions_satisfy_the_declared_ranges_of_python():
    minors = [int(text.rpartition(".")[2]) for text in PROJECT["classifiers"] if "Python :: 3." in text]
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    tested = workflow["jobs"]["ci"]["strategy"]["matrix"]["python"]
    assert [f"3.{minor}" for minor in minors] == tested
    assert PROJECT["requires-python"] == f">={tested[0]}"


def test_the_citation_names_this_version_and_the_data_set():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == PROJECT["version"] == version("rawnind")
    assert any(each.get("doi") == "10.14428/DVN/DEQCIM" for each in citation["references"])


def test_the_changelog_has_an_entry_for_this_version():
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert versions[1] == PROJECT["version"]
