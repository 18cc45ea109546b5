"""The options of `prepare`: every rule, from keywords and from a file."""

import math
from dataclasses import fields

import pytest

from rawnind.errors import ConfigError
from rawnind.options import Options, load_config
from rawnind.reasons import Outcome, Reason
from rawnind.recipe import Pairing, Recipe
from rawnind.records import Cfa

FAILURES = frozenset(reason for reason in Reason if reason.outcome is Outcome.FAILED)

WRONG = {
    "max_scenes": [0, -1, 1.5, "2", True],
    "limit": [0, -1, 1.5, "2", True],
    "timeout": [0, -5, 1.5, "60", False],
    "scene_timeout": [0, -1, math.nan, math.inf, "5", True],
    "cfa": ["Bayer", "xtrans", 1, "", []],
    "exclude_test_reserve": [1, "yes", None],
    "follow_links": [1, "yes", None],
    "keep_raw": [1, "yes", None],
    "disk_budget": [0, -1, math.nan, "5", True],
    "dashboard": [1, "yes", None],
    "cpus_per_scene": [0, -1, math.nan, None, "1", True],
    "address": [1, [], True],
    "retry_failed": ["nothing", ["truncated", "exposure"], 3, None, {"truncated": 1}],
    "strict": [1, "true", None],
    "crop_size": [33],
    "pairing": ["some"],
    "compression": ["gzip"],
}


def test_every_option_has_wrong_values_in_this_test():
    assert {field.name for field in fields(Options)} - {"recipe"} <= set(WRONG)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_value_that_breaks_its_rule_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        Options.from_dict({name: value})


@pytest.mark.parametrize(
    "name", [name for name in WRONG if name not in {"crop_size", "pairing", "compression", "retry_failed"}]
)
def test_the_class_checks_itself_too(name):
    with pytest.raises(ConfigError, match=name):
        Options(**{name: WRONG[name][0]})


def test_recipe_keys_stand_beside_the_others():
    options = Options.from_dict(
        {"crop_size": 64, "pairing": "all", "limit": 3, "cfa": "x-trans", "scene_timeout": 2}
    )
    assert options.recipe == Recipe(crop_size=64, pairing=Pairing.ALL)
    assert (options.limit, options.cfa, options.scene_timeout) == (3, Cfa.X_TRANS, 2)
    assert Options.from_dict({}) == Options()


@pytest.mark.parametrize("name", ["recipe", "crop-size", "max_scene", "", "self"])
def test_unknown_names_are_refused_and_known_ones_listed(name):
    with pytest.raises(ConfigError, match=r"unknown option .* known are .*crop_size.*max_scenes"):
        Options.from_dict({name: 1})


@pytest.mark.parametrize(
    ("value", "reasons"),
    [
        (True, FAILURES),
        (False, frozenset()),
        ("truncated", {Reason.TRUNCATED}),
        (["truncated", "timeout"], {Reason.TRUNCATED, Reason.TIMEOUT}),
        ([], frozenset()),
        (FAILURES, FAILURES),
    ],
)
def test_retry_failed_is_all_none_or_the_named_failures(value, reasons):
    assert Options.from_dict({"retry_failed": value}).retry_failed == reasons


def config(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_config(path)


def test_a_file_gives_plain_values_and_dashes_stand_for_underscores(tmp_path):
    assert config(tmp_path, "crop-size: 64\nlimit: 2\ncfa: bayer\n") == {
        "crop_size": 64,
        "limit": 2,
        "cfa": "bayer",
    }
    assert Options.from_dict(config(tmp_path, "min-msssim: 1\n")).recipe == Recipe(min_msssim=1.0)


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n"])
def test_an_empty_file_changes_nothing(tmp_path, text):
    assert config(tmp_path, text) == {}


@pytest.mark.parametrize("text", ["- a\n", "7\n", "text", "1: 2\n", "null: 1\n", "[1, 2]: 3\n"])
def test_a_file_without_option_names_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        config(tmp_path, text)


@pytest.mark.parametrize(
    "text", ["a: [", "a: b: c", b"\xff\xfe\x00", "\t", "!!python/object:os.system {}", "a: *b"]
)
def test_a_file_that_is_no_yaml_is_reported(tmp_path, text):
    with pytest.raises(ConfigError, match="is not valid YAML"):
        config(tmp_path, text)


def test_one_name_in_two_spellings_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="crop_size twice"):
        config(tmp_path, "crop-size: 64\ncrop_size: 32\n")


def test_a_missing_file_or_a_folder_in_its_place_is_reported(tmp_path):
    for path in (tmp_path / "nowhere.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot read"):
            load_config(path)
