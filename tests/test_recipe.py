"""The recipe: every rule is enforced, and its digest names its values, not their spelling."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawnind.errors import ConfigError
from rawnind.recipe import ALGORITHM, Compression, GtAlignment, Pairing, Recipe

fractions = st.floats(0, 1)
recipes = st.builds(
    Recipe,
    crop_size=st.integers(1, 64).map(lambda n: 32 * n),
    stride=st.integers(1, 5000),
    pairing=st.sampled_from(Pairing),
    compression=st.sampled_from(Compression),
    gt_alignment=st.sampled_from(GtAlignment),
    min_msssim=st.none() | fractions,
    min_valid_fraction=fractions,
    max_shift=st.integers(0, 1024),
    min_alignment_score=st.floats(0, 1e6),
    max_alignment_loss=st.floats(0, 1e6),
    max_color_deviation=st.none() | st.floats(0, 1e6),
    max_noise_ratio=st.none() | st.floats(0, 1e6),
    max_residual=st.none() | st.floats(0, 1e6),
    max_light_drift=st.none() | st.floats(0, 1e6),
    max_level_offset=st.none() | st.floats(0, 1e6),
    min_mask_mean=fractions,
    max_bad_exposure=fractions,
)

WRONG = {
    "crop_size": [0, -32, 31, 48, 512.0, "512", None, True],
    "stride": [0, -1, 1.5, "512", None, True],
    "pairing": ["worst", None, 1, [], {}],
    "compression": ["gzip", None, True, 1, [], {}],
    "gt_alignment": ["nearest", None, True, 1, [], {}],
    "max_residual": [-0.1, "0.75", True, float("nan"), float("inf"), []],
    "min_msssim": [-0.1, 1.1, math.nan, math.inf, "0.7", True],
    "min_valid_fraction": [-0.1, 1.1, math.nan, None, "1", False],
    "max_shift": [-1, 1025, 3.0, None, True],
    "min_alignment_score": [-1, math.nan, math.inf, None, "8"],
    "max_alignment_loss": [-1e-9, math.nan, math.inf, None],
    "max_color_deviation": [-1e-9, math.nan, math.inf, "0.1"],
    "max_noise_ratio": [-1e-9, math.nan, math.inf, "2"],
    "max_light_drift": [-1e-9, math.nan, math.inf, "0.1"],
    "max_level_offset": [-1e-9, math.nan, math.inf, "0.1"],
    "min_mask_mean": [-1, 2, math.nan, None],
    "max_bad_exposure": [-1, 2, math.nan, None],
    "algorithm": [0, ALGORITHM + 1, "1", None],
}


def test_every_field_has_wrong_values_in_this_test():
    assert set(WRONG) == set(Recipe.names())


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_value_that_breaks_its_rule_is_refused_with_rule_and_value(name, value):
    for make in (lambda values: Recipe(**values), Recipe.from_dict):
        with pytest.raises(ConfigError) as caught:
            make({name: value})
        assert repr(value) in str(caught.value)


@given(recipe=recipes)
def test_plain_values_make_the_same_recipe_again(recipe):
    plain = json.loads(json.dumps(recipe.as_dict()))
    assert Recipe.from_dict(plain) == recipe
    assert Recipe.from_dict(plain).digest == recipe.digest
    assert len(recipe.digest) == 16


@given(one=recipes, other=recipes)
def test_two_recipes_have_one_digest_only_if_they_are_equal(one, other):
    assert (one.digest == other.digest) == (one == other)


@pytest.mark.parametrize("name", [name for name in Recipe.names() if name != "algorithm"])
def test_every_field_changes_the_digest(name):
    changed = {
        "pairing": Pairing.ALL,
        "compression": Compression.ZSTD,
        "gt_alignment": GtAlignment.INTEGER,
        "crop_size": 64,
        "stride": 64,
        "max_shift": 7,
    }
    other = changed.get(name, 0.25)
    assert replace(Recipe(), **{name: other}).digest != Recipe().digest


@pytest.mark.parametrize("make", [Recipe, lambda **values: Recipe.from_dict(values)])
def test_one_and_one_point_nought_are_one_value(make):
    for name in (
        "min_msssim",
        "min_valid_fraction",
        "min_alignment_score",
        "max_alignment_loss",
        "min_mask_mean",
    ):
        assert make(**{name: 1}).digest == make(**{name: 1.0}).digest
        assert make(**{name: 0}).digest == make(**{name: 0.0}).digest == make(**{name: -0.0}).digest


def test_unknown_keys_are_refused_and_known_ones_named():
    with pytest.raises(ConfigError, match="crop_size"):
        Recipe.from_dict({"cropsize": 512})


def test_the_digest_is_the_same_in_every_process_and_version():
    """A change here makes every finished folder one of another recipe: raise ALGORITHM on purpose only."""
    recipe = Recipe.of_folder(
        {"crop_size": 32, "stride": 64, "pairing": "all", "min_msssim": 0.7, "min_valid_fraction": 0.5, "max_shift": 128,
             "min_alignment_score": 25, "max_alignment_loss": 0.035, "min_mask_mean": 0.8, "max_bad_exposure": 0.75,
             "compression": "none", "algorithm": 1}
    )  # fmt: skip
    assert recipe.digest == "ab98c7c8ea09cc3a"
