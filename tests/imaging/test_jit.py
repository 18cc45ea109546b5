"""The disk cache of kernels: right after any change, shared by processes and checkouts, and never a reason to fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import event

from rawnind.imaging import jit
from rawnind.imaging.jit import is_compiling, kernel

pytestmark = pytest.mark.slow

NUMBERS = "FACTOR = {factor}\nTABLE = np.array([{factor}.0, 0.0])\n"
CALLED = """
import numpy as np
from numbers_of_kernels import FACTOR

from rawnind.imaging.jit import kernel

@kernel(fastmath={"reassoc", "contract", "nsz"})
def scaled(value):
    return FACTOR * value
"""
CALLER = """
from called_kernel import scaled
from numbers_of_kernels import TABLE

from rawnind.imaging.jit import kernel

@kernel
def total(x):
    result = TABLE[1]
    for value in x:
        result += scaled(value)
    return result
"""
RUN = """
import numpy as np
from calling_kernel import total
print(total(np.arange(5, dtype=np.{dtype})), sum(total.stats.cache_hits.values()))
"""


class Package:
    """Three modules in a folder: numbers, a kernel that reads one of them, and a kernel that calls it."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.cache = cache
        folder.mkdir(exist_ok=True)
        (folder / "called_kernel.py").write_text(CALLED)
        (folder / "calling_kernel.py").write_text(CALLER)
        self.set_factor(2)

    def set_factor(self, factor: int) -> None:
        (self.folder / "numbers_of_kernels.py").write_text(
            "import numpy as np\n" + NUMBERS.format(factor=factor)
        )

    def start(self, dtype: str = "float32", **environment: str) -> "subprocess.Popen[str]":
        """A process that sums FACTOR * (0 + 1 + 2 + 3 + 4)."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
        clean |= {"PYTHONPATH": f"{self.folder}{os.pathsep}{Path.cwd()}", "NUMBA_CACHE_DIR": str(self.cache)}
        command = [sys.executable, "-B", "-W", "error", "-c", RUN.format(dtype=dtype)]
        return subprocess.Popen(
            command, env=clean | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, dtype: str = "float32", **environment: str) -> tuple[float, bool]:
        return finish(self.start(dtype, **environment))

    def files(self) -> list[Path]:
        return sorted(self.cache.rglob("*.nbc"))


def finish(process: "subprocess.Popen[str]") -> tuple[float, bool]:
    """The kernel's result, and whether it came from the cache."""
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    result, hits = output.split()
    return float(result), hits == "1"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A package whose kernels three processes compiled at the same time, for two types. Read only."""
    package = Package(tmp_path_factory.mktemp("kernels"), tmp_path_factory.mktemp("cache"))
    for process in [package.start(dtype) for dtype in ("float32", "float64", "float32")]:
        assert finish(process)[0] == 20
    return package


@pytest.fixture
def package(compiled, tmp_path):
    """A copy of the package at another path, with a copy of its cache."""
    shutil.copytree(compiled.cache, tmp_path / "cache")
    return Package(tmp_path / "elsewhere", tmp_path / "cache")


def test_processes_that_start_at_once_leave_one_good_file_per_kernel_and_signature(compiled):
    assert len(compiled.files()) == 4
    assert [compiled.run(dtype) for dtype in ("float32", "float64")] == [(20, True), (20, True)]
    assert not list(compiled.cache.rglob("*.tmp"))


def test_a_copy_of_the_package_at_another_path_compiles_nothing(package):
    assert package.run() == (20, True)
    assert len(package.files()) == 4


def test_a_number_that_changes_in_another_module_changes_the_result(package):
    package.set_factor(3)
    assert package.run() == (30, False)
    assert package.run() == (30, True)
    package.set_factor(2)
    assert package.run() == (20, True)


def test_a_kernel_that_changes_in_another_module_changes_the_result(package):
    (package.folder / "called_kernel.py").write_text(CALLED.replace("FACTOR * value", "FACTOR * value + 1"))
    assert package.run() == (25, False)


def test_compiler_options_that_change_are_compiled_again(package):
    (package.folder / "called_kernel.py").write_text(CALLED.replace('"reassoc", ', ""))
    assert package.run() == (20, False)


def test_what_names_a_module_that_is_no_more_is_compiled_again(package):
    (package.folder / "called_kernel.py").rename(package.folder / "moved_kernel.py")
    (package.folder / "calling_kernel.py").write_text(CALLER.replace("called_kernel", "moved_kernel"))
    assert package.run() == (20, False)
    assert package.run() == (20, True)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:1000], lambda data: data[:0], lambda data: data[:-1] + b"!"]
)
def test_a_damaged_file_is_compiled_again(package, damage):
    for file in package.files():
        file.write_bytes(damage(file.read_bytes()))
    assert package.run() == (20, False)
    assert package.run() == (20, True)


def test_without_any_folder_to_write_to_a_kernel_still_runs(package):
    no_folder = package.folder / "file"
    no_folder.write_text("a folder cannot be made here, not even by root")
    nowhere = {"NUMBA_CACHE_DIR": str(no_folder), "XDG_CACHE_HOME": str(no_folder), "HOME": str(no_folder)}
    assert package.run(**nowhere) == (20, False)


def test_the_cache_lies_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert doubled(np.float64(4)) == 8
    assert [path.parent for path in tmp_path.rglob("*.nbc")] == [tmp_path / "rawnind" / "kernels"]


def test_the_files_longest_unused_are_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(jit, "_MOST_FILES", 3)
    for age in range(1, 6):
        old = tmp_path / f"old-{age}.nbc"
        old.write_bytes(b"")
        os.utime(old, (1e9 - age, 1e9 - age))
    (tmp_path / "a file of the user's.txt").write_text("stays")
    assert doubled(np.float32(4)) == 8
    left = {path.name for path in tmp_path.iterdir()}
    assert {"old-1.nbc", "old-2.nbc", "a file of the user's.txt"} < left
    assert len(left) == 4


def test_a_kernel_that_reads_what_cannot_be_stamped_is_refused():
    with pytest.raises(TypeError, match="reads_a_list: LIST is a list"):
        reads_a_list(1)


LIST = [1, 2]


@kernel
def reads_a_list(x):
    return LIST[x]


@kernel
def doubled(x):
    return 2 * x


class SeenWhileCompiling(event.Listener):
    """What `is_compiling` says whenever numba begins to compile."""

    def __init__(self):
        self.answers = []

    def on_start(self, event):
        self.answers.append(is_compiling())

    def on_end(self, event):
        pass


def test_a_process_says_whether_it_compiles(monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def negative(x):
        return -x

    seen = SeenWhileCompiling()
    with event.install_listener("numba:compile", seen):
        assert [kernel(negative)(4), is_compiling()] == [-4, False]
        assert [kernel(negative)(4), is_compiling()] == [-4, False]
    assert seen.answers == [True]  # the second one came from the cache
