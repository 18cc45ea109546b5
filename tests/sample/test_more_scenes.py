import pytest

from rawnind.errors import ConfigError
from rawnind.records import Cfa
from rawnind.sample import make_sample
from rawnind.sample.more_scenes import scene_plans
from rawnind.sample.scenes import SCENES

SMALL = {"height": 192, "width": 192}


def test_a_scene_does_not_change_when_others_are_added():
    assert scene_plans(12, 3) == SCENES
    assert scene_plans(40, 3)[:20] == scene_plans(20, 3)
    assert scene_plans(20, 3) != scene_plans(20, 4)
    assert scene_plans(5, 3) == SCENES[:5]


def test_drawn_scenes_have_every_camera_and_no_photograph_has_two():
    plans = scene_plans(60, 1)
    assert {plan.cfa for plan in plans[12:]} == set(Cfa)
    assert len({plan.camera.model for plan in plans[12:]}) == 5
    cameras = {
        photo: {plan.camera.model for plan in plans if plan.photo == photo}
        for photo in {p.photo for p in plans}
    }
    assert all(len(models) == 1 for models in cameras.values())


def test_a_sample_with_other_scenes_is_another_sample(tmp_path):
    truth = make_sample(tmp_path / "pairs", scenes=2, **SMALL)
    assert [scene.name for scene in truth.scenes] == ["cat", "coffee-cup"]
    assert make_sample(tmp_path / "pairs", scenes=2, **SMALL) == truth
    with pytest.raises(ConfigError, match="holds a sample data set made with"):
        make_sample(tmp_path / "pairs", scenes=3, **SMALL)
    with pytest.raises(ConfigError, match="scenes must be at least 1, got 0"):
        make_sample(tmp_path / "other", scenes=0)


def test_the_truth_of_a_drawn_scene_says_how_its_photos_differ(tmp_path):
    truth = make_sample(tmp_path / "pairs", scenes=13, **SMALL)
    pairs = [pair for pair in truth.pairs if pair.scene == "scene-012"]
    assert len(pairs) == 2
    assert all(pair.outcome == "collected" and pair.shift is not None for pair in pairs)
    assert all(0.7 <= pair.gain <= 1.5 for pair in pairs)
