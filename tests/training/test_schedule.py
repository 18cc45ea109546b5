import pytest

from rawnind.errors import ConfigError
from rawnind.training.options import TrainOptions, split_keywords
from rawnind.training.schedule import learning_rate


def test_the_rate_rises_in_the_warm_up_and_then_only_falls():
    options = TrainOptions(steps=200, warmup=20, learning_rate=1e-2)
    rates = [learning_rate(options, step, []) for step in range(200)]
    assert rates[:20] == sorted(rates[:20])
    assert max(rates) == rates[19] == 1e-2
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert 0 < rates[-1] < 1e-5


def test_a_warm_up_longer_than_half_of_the_training_is_cut():
    options = TrainOptions(steps=10, warmup=500, learning_rate=1.0)
    assert learning_rate(options, 4, []) == 1.0


def test_on_a_plateau_the_rate_halves_after_two_validations_without_a_new_best():
    options = TrainOptions(steps=100, warmup=0, learning_rate=1.0, schedule="plateau")
    rates = [
        learning_rate(options, 50, scores) for scores in ([], [30], [30, 29], [30, 29, 30], [30, 29, 30, 31])
    ]
    assert rates == [1, 1, 1, 0.5, 0.5]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"loss": "l2"}, "loss must be one of l1, ms-ssim, l1"),
        ({"funit": "many"}, "funit must be a whole number"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number above 0"),
        ({"hold_out_camera": 7}, "hold_out_camera must be the name of a camera"),
        ({"colour": "blue"}, "unknown option 'colour'; known are accumulate"),
        ({"match_gain": False}, "unknown option 'match_gain'"),
    ],
)
def test_an_option_that_breaks_its_rule_is_named(values, message):
    with pytest.raises(ConfigError, match=message):
        split_keywords(values)
