"""Scenes and roles: what decides, and what is doubted."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawnind.errors import ConfigError
from rawnind.indexing.grouping import CsvTable, by_folder, by_regex, by_time, parse_gap, scene_name
from rawnind.indexing.roles import choose_roles
from rawnind.indexing.scan import Found
from rawnind.records import Capture, Cfa
from rawnind.source.names import parse_scene
from rawnind.source.photo_header import PhotoHeader


def photo(below, iso=100, seconds=1.0, *, taken=None, camera="SONY ILCE-7C", cfa=Cfa.BAYER, mm=50.0):
    capture = Capture(iso=iso, exposure_time=seconds, aperture=8.0, focal_length=mm, captured_at=taken)
    header = PhotoHeader(camera=camera, cfa=cfa, height=100, width=100, capture=capture)
    return Found(
        path=f"/photos/{below}", name=below, below=below, folder="photos", sha1="0" * 40, header=header
    )


def roles(photos, grouping=by_folder):
    return {
        each.photo.name: (each.scene, each.ground_truth, each.explanation)
        for each in choose_roles(grouping(photos))
    }


def test_a_folder_is_a_scene_and_gt_names_none():
    found = roles([photo("2026/kitchen/gt/1.nef"), photo("2026/kitchen/2.nef", 800, 0.125), photo("a/x/1.nef"),
                   photo("b/x/1.nef"), photo("0.nef"), photo("2026/kitchen/3.nef", 100)])  # fmt: skip
    scenes = {name: scene for name, (scene, _, _) in found.items()}
    assert scenes == {"2026/kitchen/gt/1.nef": "kitchen", "2026/kitchen/2.nef": "kitchen", "2026/kitchen/3.nef": "kitchen",
                      "a/x/1.nef": "a-x", "b/x/1.nef": "b-x", "0.nef": "photos"}  # fmt: skip
    assert found["2026/kitchen/gt/1.nef"][1:] == (True, "in gt/")
    assert found["2026/kitchen/3.nef"][1:] == (False, "not among the ground truths")


def test_scenes_whose_names_would_be_the_same_are_numbered(tmp_path):
    folders = ["hall!", "hall?", "hall--2", "TEST_lamp", "lamp", "😀", "😁", "x" * 70 + "1", "x" * 70 + "2"]
    table = tmp_path / "scenes.csv"
    table.write_text("file,scene\n" + "".join(f"{folder}/1.nef,{folder}\n" for folder in folders), encoding="utf-8")  # fmt: skip
    for grouping in (by_folder, CsvTable(table), by_regex("[^/]+")):
        found = roles([photo(f"{folder}/1.nef") for folder in folders], grouping)
        scenes = [scene for scene, _, _ in found.values()]
        assert len(set(scenes)) == len(folders)
        assert {"hall", "hall-2", "hall-3", "lamp", "lamp-2", "scene", "scene-2", "x" * 60} < set(scenes)
    at_once = [photo(f"{camera}.nef", taken="2026-05-01T08:00:00", camera=camera) for camera in "AB"]
    assert len({scene for scene, _, _ in roles(at_once, by_time(parse_gap("1m"))).values()}) == 2


def test_the_lowest_iso_and_the_longest_exposure_decide_and_bursts_are_kept():
    found = roles([photo("s/1.nef", 100, 1.0), photo("s/2.nef", 100, 1.02), photo("s/3.nef", 100, 0.01),
                   photo("s/4.nef", 3200, 0.03)])  # fmt: skip
    assert {name: role for name, (_, role, _) in found.items()} == {
        "s/1.nef": True,
        "s/2.nef": True,
        "s/3.nef": False,
        "s/4.nef": False,
    }
    assert found["s/1.nef"][2] == "lowest ISO, longest exposure, burst"
    assert found["s/3.nef"][2] == "shorter exposure; ? exposure differs by 6.6 EV"


def test_what_cannot_be_told_is_doubted():
    found = roles([photo("s/1.nef"), photo("s/2.nef"), photo("one/1.nef", 3200), photo("t/1.nef", 400), photo("t/2.nef", 800, 0.5),
                   photo("u/1.nef"), photo("u/2.nef", 800, 1 / 8, camera="NIKON D7000"), photo("u/3.nef", None), photo("u/4.nef", 200, 0.5, mm=35.0)])  # fmt: skip
    says = {name: text for name, (_, _, text) in found.items()}
    assert (
        says["s/1.nef"]
        == "no ground truth was found; ? all photos have the same ISO and exposure: which is the ground truth?"
    )
    assert "? the scene has one photo" in says["one/1.nef"]
    assert says["t/1.nef"] == "lowest ISO; ? lowest ISO is not base ISO: 400, this camera has 100"
    assert says["t/2.nef"] == "higher ISO"
    assert "? one camera differs: NIKON D7000 among SONY ILCE-7C" in says["u/2.nef"]
    assert says["u/4.nef"] == "higher ISO; ? focal length differs: 35 and 50 mm"
    assert says["u/3.nef"] == "ISO unknown; ? the file does not say its ISO"


def test_scenes_of_a_card_end_where_the_camera_pauses():
    times = ["08:00:00", "08:00:40", "08:01:30", "08:05:00", "08:05:01"]
    photos = [
        photo(f"100MSDCF/{n}.nef", 100 * 2**n, taken=f"2026-05-01T{time}") for n, time in enumerate(times)
    ]
    photos.append(photo("100MSDCF/9.nef", taken="2026-05-01T08:02:00", camera="other"))
    photos.append(photo("100MSDCF/x.nef"))
    found = roles(photos, by_time(parse_gap("1m")))
    assert [found[f"100MSDCF/{n}.nef"][0] for n in range(5)] == ["2026-05-01_08-00-00"] * 3 + [
        "2026-05-01_08-05-00"
    ] * 2
    assert found["100MSDCF/9.nef"][0] == "2026-05-01_08-02-00"
    assert "? the file has no capture time" in found["100MSDCF/x.nef"][2]
    doubts = [name for name, (_, _, text) in roles(photos).items() if "100MSDCF is a camera's folder" in text]
    assert doubts == ["100MSDCF/0.nef"]


def test_a_pattern_finds_scenes():
    photos = [photo("day1/kitchen_01.nef"), photo("day1/kitchen_02.nef", 800), photo("day1/x.nef")]
    assert {scene for scene, _, _ in roles(photos, by_regex(r"(\w+)_\d+")).values()} == {"kitchen"}
    assert {scene for scene, _, _ in roles(photos, by_regex(r"(?P<scene>k)i(t)")).values()} == {"k"}
    assert len(roles(photos, by_regex("_0"))) == 2


def test_a_table_says_scenes_and_roles(tmp_path):
    table = tmp_path / "scenes.csv"
    table.write_text("\ufefffile,scene,role\n1.nef,tea,gt\nday1/2.nef,tea,\n", encoding="utf-8")
    found = roles(
        [photo("day1/1.nef", 3200), photo("day1/2.nef", 100, 32.0), photo("day1/3.nef")], CsvTable(table)
    )
    assert found == {"day1/1.nef": ("tea", True, "in scenes.csv; ? not at base ISO: 3200, this camera has 100"),
                     "day1/2.nef": ("tea", False, "not among the ground truths")}  # fmt: skip
    found = roles([photo("day1/1.nef"), photo("day2/1.nef")], CsvTable(table))
    assert all("? 2 files are called 1.nef: write their folders into scenes.csv" in says for _, _, says in found.values())  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "file;scene\n",
        "file,scene,role\n1.nef,,gt\n",
        "file,scene,role\n1.nef,a,clean\n",
        "\xff",
        "file,scene\n1.nef,a\n1.nef,b\n",
    ],
)
def test_a_table_that_is_none_is_one_sentence(tmp_path, text):
    table = tmp_path / "scenes.csv"
    table.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"scenes\.csv"):
        CsvTable(table)


def test_names_of_macos_match_what_a_person_types(tmp_path):
    photos = [photo(unicodedata.normalize("NFD", f"Küche/{number}.nef"), 100 * number) for number in (1, 2)]
    table = tmp_path / "scenes.csv"
    table.write_text("file,scene\nKüche/1.nef,tea\nKüche/2.nef,tea\n", encoding="utf-8")
    by_table = CsvTable(table)
    assert {scene for scene, _, _ in roles(photos, by_table).values()} == {"tea"}
    assert not by_table.unknown
    assert {scene for scene, _, _ in roles(photos, by_regex("Küche")).values()} == {"Küche"}


@given(st.text(max_size=300))
def test_any_text_becomes_a_scene_name(text):
    assert parse_scene(scene_name(text)).scene == scene_name(text)


def test_each_camera_of_a_scene_has_its_own_ground_truth():
    found = roles([photo("s/1.nef"), photo("s/2.nef", 800, 0.125), photo("s/3.nef", 200, 0.5, camera="B"),
                   photo("s/4.nef", 1600, 0.0625, camera="B"), photo("s/5.nef", 1600, 0.0625)])  # fmt: skip
    assert [name for name, (_, truth, _) in found.items() if truth] == ["s/1.nef", "s/3.nef"]
    assert found["s/4.nef"][2] == "higher ISO; ? one camera differs: B among SONY ILCE-7C"


def test_roles_follow_each_pattern_of_a_scene_that_has_two():
    found = roles([photo("s/1.nef"), photo("s/2.nef", 800, 0.125), photo("s/1.raf", 200, 0.5, cfa=Cfa.X_TRANS, camera="X-T30"),
                   photo("s/2.raf", 1600, 0.06, cfa=Cfa.X_TRANS, camera="X-T30")])  # fmt: skip
    assert [name for name, (_, truth, _) in found.items() if truth] == ["s/1.nef", "s/1.raf"]
