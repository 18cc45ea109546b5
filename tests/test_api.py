"""The names that people import from `rawnind`."""

import ast
import inspect
import re
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import rawnind
from rawnind import errors
from rawnind.errors import NotPreparedError, RawnindError
from rawnind.exit_codes import ExitCode, exit_code
from rawnind.options import Options, RunOptions
from rawnind.recipe import Recipe

FUNCTIONS = ["export", "load_index", "plan", "prepare", "status", "verify"]
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_importing_rawnind_loads_none_of_the_slow_packages():
    code = "import rawnind, sys; print(sorted({'ray', 'torch', 'numba', 'pyarrow', 'numpy', 'cv2'} & {*sys.modules}))"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert ast.literal_eval(shown) == []


@pytest.mark.parametrize("name", rawnind.__all__)
def test_every_public_name_is_there_and_explained(name):
    value = getattr(rawnind, name)
    if name == "__version__":
        assert value == version("rawnind")
    else:
        assert inspect.getdoc(value)
    assert name in dir(rawnind)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'repair'"):
        rawnind.repair  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_not_hidden_by_modules_and_say_what_they_take_return_and_raise(name):
    for module in ("planning", "estimate", "exporters.check", "output.verify", "output.status"):
        import_module(f"rawnind.{module}")
    function = getattr(rawnind, name)
    assert inspect.isfunction(function)
    for section in ("Args:", "Returns:", "Raises:", "Examples:"):
        assert f"\n{section}\n" in inspect.getdoc(function), section


def test_the_typed_options_are_the_fields_of_options_and_recipe():
    known = [field.name for field in fields(Options) if field.name != "recipe"] + Recipe.names()
    assert list(RunOptions.__annotations__) == known


def test_a_folder_that_was_never_prepared_has_one_error(tmp_path):
    for call in (rawnind.verify, rawnind.status, rawnind.CropDataset):
        with pytest.raises(NotPreparedError, match=str(tmp_path)):
            call(tmp_path)
    with pytest.raises(NotPreparedError, match=str(tmp_path)):
        rawnind.export(tmp_path, tmp_path / "exported")


def test_status_and_verify_return_what_the_commands_print(prepared):
    assert rawnind.verify(prepared) == ()
    status = rawnind.status(prepared)
    assert sum(count for _, count in status.scenes) == status.summary.scenes.planned == 12
    assert status.crops == status.summary.crops
    assert {(failure.scene, failure.reason) for failure in status.failures} == {
        ("moon", "truncated"),
        ("coins", "sha1_mismatch"),
    }


def test_a_plan_counts_what_prepare_will_do(sample_set):
    found = rawnind.plan(sample_set, crop_size=64, stride=96, cfa="x-trans")
    assert len(found.plan.selected) == sum("X-Trans" in line for line in _scenes(sample_set))


def _scenes(sample_set):
    return {re.sub(r"_(GT_)?ISO.*", "", path.name) for path in sample_set.glob("*.dng")}


def test_readme_lists_exactly_the_exit_codes():
    (table,) = re.findall(r"\| Exit code \| Meaning \|\n\|.*\n((?:\|.*\n)+)", README)
    assert [int(row.split("|")[1]) for row in table.splitlines()] == list(ExitCode)


def test_every_error_has_an_exit_code_that_is_not_complete():
    kinds = [
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, RawnindError)
    ]
    of_a_file = {errors.SourceError, errors.DownloadError}
    plain = [kind("...") for kind in kinds if kind not in of_a_file] + [
        errors.DownloadError("timeout", "...")
    ]
    assert {exit_code(error) for error in plain} == {ExitCode.PROBLEM, ExitCode.USAGE, ExitCode.STOPPED}
