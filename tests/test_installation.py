"""Two processes with different code or libraries are told apart."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import rawpy

import rawnind
from rawnind.errors import CodeMismatchError
from rawnind.installation import Installation, as_installation, this_installation


def test_a_process_is_the_same_as_itself():
    here = this_installation()
    here.require_same(this_installation())
    assert Path(here.folder) == Path(rawnind.__file__).parent
    assert ("LibRaw", str(rawpy.libraw_version)) in here.versions


def test_another_clone_is_told_apart_by_its_code(tmp_path):
    shutil.copytree(Path(rawnind.__file__).parent, tmp_path / "rawnind")
    script = "from rawnind.installation import describe; print(repr(describe()))"

    def there():
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return as_installation(eval(done.stdout))  # noqa: S307 - our own repr

    this_installation().require_same(there())
    with (tmp_path / "rawnind" / "recipe.py").open("a") as file:
        file.write("\n")
    with pytest.raises(CodeMismatchError) as error:
        this_installation().require_same(there())
    assert f"{tmp_path}/rawnind on" in str(error.value)
    assert f"{Path(rawnind.__file__).parent} on" in str(error.value)


def test_other_libraries_are_named():
    here = this_installation()
    other = replace(here, versions=(("numpy", "1.0"), *here.versions[1:]))
    with pytest.raises(CodeMismatchError, match=r"numpy 1\.0 there and .* here"):
        here.require_same(other)


def test_a_module_that_is_found_before_a_library_is_told_apart(tmp_path):
    (tmp_path / "numba.py").write_text("raise SystemExit('imported')")
    script = "from rawnind.installation import describe; print(repr(describe()))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    with pytest.raises(CodeMismatchError, match=rf"numba {tmp_path}/numba\.py there and .* here"):
        this_installation().require_same(as_installation(eval(done.stdout)))  # noqa: S307 - our own repr


def test_a_machine_without_the_package_is_named_with_the_remedy():
    without = Installation(host="node7", folder="", digest="", versions=())
    with pytest.raises(CodeMismatchError, match=r"not installed on node7.*--working-dir"):
        this_installation().require_same(without)
