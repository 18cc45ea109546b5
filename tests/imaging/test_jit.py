"""The disk cache of kernels: shared by processes, and never a reason to fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = """
from rawnind.imaging.jit import kernel

@kernel(fastmath={"contract"})
def total(x):
    result = FACTOR * 0.0
    for value in x:
        result += FACTOR * value
    return result
"""
RUN = """
import numpy as np, some_kernel
result = some_kernel.total(np.arange({n}, dtype=np.{dtype}))
print(result, sum(some_kernel.total.stats.cache_hits.values()))
"""


def write_module(folder: Path, factor: int = 2) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "some_kernel.py").write_text(MODULE.replace("FACTOR", str(factor)))


def start(folder: Path, dtype: str = "float32", **environment: str) -> subprocess.Popen[str]:
    """A process that imports the module in `folder` and calls its kernel with 0..4."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
    clean |= {"PYTHONPATH": f"{folder}{os.pathsep}{Path.cwd()}", **environment}
    command = [sys.executable, "-W", "error", "-c", RUN.format(n=5, dtype=dtype)]
    return subprocess.Popen(command, env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[float, bool]:
    """The kernel's result, and whether it came from the cache."""
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    result, hits = output.split()
    return float(result), hits == "1"


def cached(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.nbc"))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A folder whose kernel two processes compiled at the same time, for two types."""
    folder = tmp_path_factory.mktemp("kernels")
    write_module(folder)
    for process in [start(folder, dtype) for dtype in ("float32", "float64", "float32")]:
        assert finish(process)[0] == 20
    return folder


def test_processes_that_start_at_once_leave_one_good_file_per_signature(compiled):
    assert len(cached(compiled)) == 2
    assert [finish(start(compiled, dtype)) for dtype in ("float32", "float64")] == [(20, True), (20, True)]
    assert not list(compiled.rglob("*.tmp.*"))


def test_a_damaged_stale_or_exchanged_file_is_compiled_again(compiled):
    first, second = cached(compiled)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())  # what numba's own index can do when two processes write it
    second.write_bytes(content[:1000])
    assert finish(start(compiled, "float32")) == (20, False)
    assert finish(start(compiled, "float64")) == (20, False)
    write_module(compiled, factor=3)
    assert finish(start(compiled)) == (30, False)
    assert finish(start(compiled)) == (30, True)
    assert len(cached(compiled)) == 2


def test_without_any_folder_to_write_to_a_kernel_still_runs(tmp_path):
    write_module(tmp_path / "package")
    no_folder = tmp_path / "file"
    no_folder.write_text("a folder cannot be made here, not even by root")
    (tmp_path / "package" / "__pycache__").write_text("nor here")
    nowhere = {"NUMBA_CACHE_DIR": str(no_folder), "XDG_CACHE_HOME": str(no_folder), "HOME": str(no_folder)}
    assert finish(start(tmp_path / "package", **nowhere)) == (20, False)
    assert not cached(tmp_path)


def test_a_folder_that_vanishes_or_fills_up_between_import_and_compilation_does_no_harm(
    tmp_path, monkeypatch
):
    import numpy as np

    folder = tmp_path / "package"
    write_module(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "some_kernel", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import some_kernel

    (folder / "__pycache__").rmdir()
    (folder / "__pycache__").write_text("a file now")
    assert some_kernel.total(np.ones(4, np.float32)) == 8
    monkeypatch.delitem(sys.modules, "some_kernel")
