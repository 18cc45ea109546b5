"""The records: frozen, keyword-only, and checked against their rules when they come from outside."""

import dataclasses
import inspect
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rawnind import records
from rawnind.reasons import Outcome, Reason
from rawnind.records import Cfa, Counts, ImageRef, Scene, SceneName, SceneResult, pair_id
from tests.output.result_maker import make_result, make_scene, photo

CLASSES = [
    kind
    for _, kind in inspect.getmembers(records, dataclasses.is_dataclass)
    if kind.__module__ == records.__name__
]


@pytest.mark.parametrize("kind", CLASSES)
def test_records_are_frozen_keyword_only_and_have_slots(kind):
    parameters = kind.__dataclass_params__
    assert parameters.frozen
    assert hasattr(kind, "__slots__")
    assert all(field.kw_only for field in dataclasses.fields(kind))
    assert kind.__pydantic_config__["strict"]
    grows = kind in {records.Capture, records.Crop, records.Measurements, records.Sensor, records.BorderNoise}
    assert kind.__pydantic_config__["extra"] == ("ignore" if grows else "forbid")


@pytest.mark.parametrize("cfa", Cfa)
def test_a_tile_and_its_planes_agree(cfa):
    sites = [color for row in cfa.tile for color in row]
    assert len(cfa.tile) == cfa.period
    assert all(len(row) == cfa.period for row in cfa.tile)
    assert cfa.period % cfa.cell == 0
    assert set(sites) == set(cfa.plane_colors) == {0, 1, 2}
    if cfa is Cfa.BAYER:
        assert tuple(sites) == cfa.plane_colors
    for top in range(0, cfa.period, cfa.cell):
        for left in range(0, cfa.period, cfa.cell):
            cell = {cfa.tile[y][x] for y in range(top, top + cfa.cell) for x in range(left, left + cfa.cell)}
            assert cell == {0, 1, 2}  # each sample of a plane has sites of its colour


def test_x_trans_has_twenty_greens_and_every_colour_in_every_row_and_column():
    tile = Cfa.X_TRANS.tile
    assert sum(row.count(1) for row in tile) == 20
    assert all(set(line) == {0, 1, 2} for line in (*tile, *zip(*tile, strict=True)))


def test_reasons_are_the_closed_list():
    names = {outcome: {str(reason) for reason in Reason if reason.outcome is outcome} for outcome in Outcome}
    assert names == {
        Outcome.COLLECTED: set(),
        Outcome.FILTERED: {"test_reserve", "cfa_filter", "scene_filter"},
        Outcome.REJECTED: {"no_ground_truth", "no_noisy", "alignment_uncertain", "alignment_loss", "exposure", "mask_mean",
                           "cfa_mismatch", "size_mismatch", "too_small", "no_valid_crop", "no_color_matrix", "camera_mismatch", "colour_mismatch",
                           "roles_swapped", "light_mismatch", "level_mismatch", "misaligned"},
        Outcome.FAILED: {"missing_file", "sha1_mismatch", "truncated", "unreadable", "all_zero", "incomplete",
                         "unsupported_cfa", "unsupported_levels",
                         "worker_died", "timeout", "too_large", "invalid_result"},
    }  # fmt: skip


SCENE_NAME = TypeAdapter(SceneName)


@given(
    name=st.text(max_size=40)
    | st.sampled_from(["..", "../a", "a/b", "a\\b", ".a", "_a", "-a", "a\n", "a\0", "", " a"])
)
def test_no_scene_name_leads_out_of_its_folder(name):
    try:
        SCENE_NAME.validate_python(name)
    except ValidationError:
        return
    assert name[0] not in "._- /"
    assert not set(name) & set("/\\\0\n\r\t:*?\"<>|'")
    assert len(name.encode()) <= 200


@pytest.mark.parametrize("name", ["kitchen", "7D-2", "Homarus-americanus", "a_b c+d.e", "é", "ß" * 100])
def test_names_of_real_scenes_pass(name):
    assert SCENE_NAME.validate_python(name) == name


@pytest.mark.parametrize("name", ["x" * 201, "ß" * 101, "字" * 67])
def test_names_that_no_folder_can_have_are_refused(name):
    with pytest.raises(ValidationError):
        SCENE_NAME.validate_python(name)


@pytest.mark.parametrize(
    ("field", "value"),
    [("sha1", "A" * 40), ("sha1", "a" * 39), ("sha1", "a" * 40 + "\n"), ("scene", ".."), ("cfa", "Bayer"), ("iso", "100"),
     ("iso", 100.5), ("ground_truth", 1), ("surprise", 1)],
)  # fmt: skip
def test_a_reference_from_outside_is_checked(field, value):
    adapter = TypeAdapter(ImageRef)
    good = adapter.dump_python(photo("a", Cfa.BAYER, 0, ground_truth=True), mode="json")
    assert adapter.validate_json(json.dumps(good)) == photo("a", Cfa.BAYER, 0, ground_truth=True)
    with pytest.raises(ValidationError):
        adapter.validate_json(json.dumps(good | {field: value}))


def test_scenes_and_results_survive_json():
    for kind, value in ((Scene, make_scene(truths=2)), (SceneResult, make_result(make_scene()))):
        adapter = TypeAdapter(kind)
        assert adapter.validate_json(adapter.dump_json(value)) == value


def test_ids_come_from_the_photos_hashes():
    noisy, truth = photo("a", Cfa.BAYER, 0, ground_truth=False), photo("a", Cfa.BAYER, 0, ground_truth=True)
    assert pair_id(noisy, truth) == f"{noisy.sha1[:12]}-{truth.sha1[:12]}"
    assert pair_id(noisy, None) == f"{noisy.sha1[:12]}-none"
    assert make_scene("a", Cfa.X_TRANS).key == "x-trans/a"


def test_what_is_planned_and_has_no_outcome_is_open():
    assert Counts(planned=5, collected=1, filtered=1, rejected=1, failed=1).open == 1
    assert Counts().open == 0
