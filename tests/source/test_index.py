"""From folders and index YAMLs to scenes: nothing vanishes."""

import json
import os
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rawnind.errors import ConfigError, IndexInvalidError
from rawnind.records import Cfa
from rawnind.source.catalog import is_published
from rawnind.source.index import INDEX_NAME, SkippedFiles, check_source, index_to_yaml, load_index
from rawnind.splits import validation_scenes
from tests.source.index_maker import FILES, entry, lay_out, listed, name, sha1, touch, why


def facts(index):
    """What an index says about its scenes, without the paths."""
    return [
        (scene.key, scene.test_reserve, scene.unknown_sensor,
         [(ref.sha1, ref.iso, ref.filename) for ref in scene.ground_truths],
         [(ref.sha1, ref.iso, ref.filename) for ref in scene.noisy])
        for scene in index.scenes
    ]  # fmt: skip


@pytest.mark.parametrize("layout", ["flat", "nested", "src"])
def test_flat_and_nested_folders_hold_the_same_scenes(tmp_path, layout):
    lay_out(tmp_path, layout)
    index = load_index(tmp_path)
    assert facts(index) == [
        ("bayer/a_b", True, False, [(sha1(1), 100, FILES[0][1])], [(sha1(2), 3200, FILES[1][1])]),
        ("bayer/c-d", False, False, [(sha1(3), 100, FILES[3][1]), (sha1(4), 100, FILES[2][1])],
         [(sha1(5), None, FILES[4][1])]),
        ("x-trans/e", False, True, [], [(sha1(6), 100, FILES[5][1])]),
    ]  # fmt: skip
    refs = [ref for scene in index.scenes for ref in scene.ground_truths + scene.noisy]
    assert all(Path(ref.path).is_file() and Path(ref.path).is_absolute() for ref in refs)
    assert index.refused == ()


@pytest.mark.parametrize("layout", ["flat", "nested", "src"])
def test_an_index_survives_its_yaml(tmp_path, layout):
    lay_out(tmp_path, layout)
    index = load_index(tmp_path)
    elsewhere = tmp_path / "lists"
    elsewhere.mkdir()
    path = elsewhere / "mine.yml"
    path.write_text(index_to_yaml(index))
    assert load_index(path, root=tmp_path).scenes == index.scenes
    assert index_to_yaml(load_index(path, root=tmp_path)) == path.read_text()
    (tmp_path / INDEX_NAME).write_text(path.read_text())
    assert load_index(tmp_path).scenes == index.scenes


def test_a_long_index_is_never_in_memory_as_a_whole(tmp_path):
    scenes = {
        f"s{number}": entry(
            clean=[name(f"s{number}", number, gt=True)],
            noisy=[name(f"s{number}", 10**6 + number), name(f"s{number}", 10**7 + number)],
        )
        for number in range(400)
    }
    path = listed(tmp_path, {"Bayer": scenes})
    load_index(path)  # what is imported and compiled once does not count
    tracemalloc.start()
    try:
        index = load_index(path)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(index.scenes) == 400
    assert peak < 1.5 * kept


def test_yaml_written_by_us_is_plain(tmp_path):
    lay_out(tmp_path, "flat")
    read = yaml.safe_load(index_to_yaml(load_index(tmp_path)))
    assert read["Bayer"]["a_b"]["test_reserve"] is True
    assert read["X-Trans"]["e"] == {
        "clean_images": [],
        "noisy_images": [{"filename": FILES[5][1], "sha1": sha1(6)}],
        "test_reserve": False,
        "unknown_sensor": True,
    }


def test_missing_files_keep_the_path_they_should_have(tmp_path):
    path = listed(tmp_path, {"Bayer": {"a": entry([name("a", 1, gt=True)], [name("a", 2)])}})
    (scene,) = load_index(path).scenes
    assert scene.ground_truths[0].path == str(tmp_path / name("a", 1, gt=True))
    (elsewhere,) = load_index(path, root=tmp_path / "not there yet").scenes
    assert elsewhere.noisy[0].path == str(tmp_path / "not there yet" / name("a", 2))


@pytest.mark.parametrize("layout", ["flat", "nested"])
def test_unicode_forms_of_a_name_are_one_scene_at_its_real_path(tmp_path, layout):
    composed, decomposed = "TEST_K\u00fcche", "K\u00fcche".replace("\u00fc", "u\u0308")
    files = (composed, name(composed, 1, gt=True)), (decomposed, name(decomposed, 2))
    for folder, filename in files:
        gt = "gt/" if "_GT_" in filename else ""
        touch(tmp_path, filename if layout == "flat" else f"Bayer/{folder}/{gt}{filename}")
    (scene,) = load_index(tmp_path).scenes
    assert (scene.name, scene.test_reserve) == ("K\u00fcche", True)
    photos = [*scene.ground_truths, *scene.noisy]
    assert [Path(photo.path).name for photo in photos] == [filename for _, filename in files]
    other_forms = entry([name("TEST_" + decomposed, 1, gt=True)], [name("K\u00fcche", 2)])
    listed(tmp_path, {"Bayer": {decomposed: other_forms}})
    (again,) = load_index(tmp_path).scenes
    assert [photo.path for photo in (*again.ground_truths, *again.noisy)] == [photo.path for photo in photos]


def test_what_is_not_raw_is_counted(tmp_path):
    touch(
        tmp_path,
        name("a", 1, gt=True),
        name("a", 2, ext="jpg"),
        name("a", 3, ext="xmp"),
        "readme.txt",
        "b.XMP",
    )
    index = load_index(tmp_path)
    assert index.skipped_files == SkippedFiles(xmp=2, images=1, other=1)
    assert (index.ground_truths, index.noisy, index.refused) == (1, 0, ())


def test_one_entry_for_the_same_bytes_in_one_role(tmp_path):
    touch(
        tmp_path, name("a", 1, gt=True), name("a", 1, gt=True, ext="ARW"), name("a", 1), name("b", 1, gt=True)
    )
    index = load_index(tmp_path)
    assert [(len(scene.ground_truths), len(scene.noisy)) for scene in index.scenes] == [(1, 1), (1, 0)]
    assert index.skipped_files.duplicates == 1


def test_a_scene_that_shares_a_photo_with_the_test_reserve_is_reserved_too(tmp_path):
    touch(
        tmp_path,
        name("TEST_a", 1, gt=True),
        name("b", 1, gt=True), name("b", 2),
        name("c", 2), name("c", 3),
        name("d", 4), name("d", 5),
    )  # fmt: skip
    assert [scene.test_reserve for scene in load_index(tmp_path).scenes] == [True, True, True, False]


@settings(max_examples=50, deadline=None)
@given(
    scenes=st.lists(
        st.tuples(st.booleans(), st.sets(st.integers(0, 12), min_size=1, max_size=4)), min_size=1, max_size=6
    )
)
def test_no_photo_is_both_in_the_test_reserve_and_outside_of_it(tmp_path_factory, scenes):
    layout = {
        f"s{number}": entry(noisy=[name(f"s{number}", photo) for photo in sorted(photos)], test_reserve=test)
        for number, (test, photos) in enumerate(scenes)
    }
    index = load_index(listed(tmp_path_factory.mktemp("reserve"), {"Bayer": layout}))
    split = {True: set(), False: set()}
    for scene in index.scenes:
        split[scene.test_reserve] |= {ref.sha1 for ref in scene.noisy}
    assert not split[True] & split[False]
    assert all(index.scenes[number].test_reserve for number, (test, _) in enumerate(scenes) if test)
    if not any(test for test, _ in scenes):
        assert index.test_reserve == 0


def test_names_that_contradict_their_folders_are_refused(tmp_path):
    touch(
        tmp_path,
        "Bayer/a/" + name("a", 1),
        "Bayer/a/" + name("a", 2, gt=True),
        "Bayer/a/gt/" + name("a", 3),
        "Bayer/a/" + name("b", 4),
        "X-Trans/a/" + name("a", 5),
        "thumbnails/x.jpg",
        "Bayer/a/gt/deeper/" + name("a", 6, gt=True),
    )
    index = load_index(tmp_path)
    assert [ref.sha1 for scene in index.scenes for ref in scene.noisy] == [sha1(1)]
    layout = "the folder is not part of the layout [src/]{Bayer|X-Trans}/{scene}/[gt/]"
    says = "its folder or index entry has {}, its name has {}"
    assert why(index) == {
        "Bayer/a/" + name("a", 2, gt=True): says.format("noisy", "ground truth"),
        "Bayer/a/gt/" + name("a", 3): says.format("ground truth", "noisy"),
        "Bayer/a/" + name("b", 4): says.format("a", "b"),
        "X-Trans/a/" + name("a", 5): says.format("x-trans", "bayer"),
        "thumbnails": layout,
        "Bayer/a/gt/deeper": layout,
    }


def test_one_bad_entry_costs_only_itself(tmp_path):
    good = entry([name("a", 1, gt=True)], [name("a", 2)])
    bad_images = entry(
        [name("b", 3)], [name("c", 4), "../../etc/passwd.dng", "/etc/" + name("b", 5), name("b", 6)]
    )
    bad_images["clean_images"] += [
        "text",
        {"filename": name("b", 7, gt=True), "sha1": "7"},
        {"filename": 7, "sha1": sha1(7)},
    ]
    bad_images["noisy_images"][-1]["sha1"] = sha1(8)
    path = listed(
        tmp_path,
        {
            "Bayer": {
                "a": good,
                "b": bad_images,
                "no-flag": {"clean_images": [], "noisy_images": [], "unknown_sensor": False},
                "no-list": entry() | {"clean_images": None},
                "../up": entry(),
                "text": "text",
            },
            "Foveon": {"z": entry()},
        },
    )
    index = load_index(path)
    assert [scene.key for scene in index.scenes] == ["bayer/a", "bayer/b"]
    assert index.scenes[1].ground_truths + index.scenes[1].noisy == ()
    assert len(index.refused) == 12
    said = " ".join(f"{refused.file}: {refused.why}" for refused in index.refused)
    for part in ("test_reserve: Field required", "Bayer/../up: the scene's name", "Foveon: the index's first level",
                 "holds a path", f"the index has SHA-1 {sha1(8)}", "has ground truth, its name has noisy"):  # fmt: skip
        assert part in said


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [", "not valid YAML"),
        ("[" * 100_000, "not valid YAML"),
        ("\0", "not valid YAML"),
        ("", "not an index"),
        ("- 1", "not an index"),
        ("Bayer: [1]", "not an index"),
        ("test_reserve: {a: 1}", "Bayer or X-Trans"),
        ("Bayer: {a: {}}\nBayer: {b: {}}", "Bayer is given twice"),
        ("Bayer: {}", "holds no RAW photo"),
        ("x: &x [1]\nBayer: &y {a: *y}", "not valid YAML"),
        ("!!python/object/apply:os.system ['false']", "not an index"),
    ],
)
def test_a_yaml_that_is_no_index_is_said_to_be_none(tmp_path, text, part):
    path = tmp_path / INDEX_NAME
    path.write_text(text)
    with pytest.raises(IndexInvalidError, match=part):
        load_index(path)


def test_sources_that_hold_no_photo_are_refused(tmp_path):
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "dataverse.json").write_text(json.dumps({"data": {"latestVersion": {"files": []}}}))
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "photos/DSC01234.ARW")
    for source, part in (
        ("nothing", "does not exist"),
        ("text.txt", "neither a folder nor an index YAML"),
        ("dataverse.json", "Dataverse"),
        ("empty", "called like Bayer_kitchen_GT"),
        ("photos", "DSC01234.ARW"),
        ("text.txt/below", "does not exist"),
    ):
        with pytest.raises(IndexInvalidError, match=part):
            load_index(tmp_path / source)


@pytest.mark.parametrize("look", [load_index, is_published])
@pytest.mark.parametrize("ending", ["", ".yaml", ".parquet", ".json"])
def test_a_source_that_the_system_refuses(look, ending):
    with pytest.raises(IndexInvalidError, match="File name too long"):
        look("a" * 300 + ending)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("look", [load_index, is_published])
def test_a_folder_that_cannot_be_read(tmp_path, look):
    tmp_path.chmod(0)
    with pytest.raises(IndexInvalidError, match="permissions"):
        look(str(tmp_path))
    tmp_path.chmod(0o700)


def test_root_is_only_for_yamls(tmp_path):
    touch(tmp_path, name("a", 1))
    with pytest.raises(ConfigError, match="--root"):
        load_index(tmp_path, root=tmp_path)


def real_index():
    data = os.environ.get("RAWNIND_DATA")
    if not data:
        pytest.skip("RAWNIND_DATA does not say where the real data set's index lies")
    return load_index(Path(data) / "rawnind")


def test_the_real_index_loads_completely(tmp_path):
    index = real_index()
    assert (len(index.scenes), index.count(Cfa.BAYER), index.count(Cfa.X_TRANS)) == (307, 196, 111)
    assert (index.test_reserve, index.unknown_sensor) == (16, 11)
    assert (index.ground_truths, index.noisy) == (556, 2269)
    assert index.skipped_files == SkippedFiles(xmp=11, images=1)
    assert index.refused == ()
    assert sum(len(scene.ground_truths) > 1 for scene in index.scenes) == 172
    path = tmp_path / "again.yaml"
    path.write_text(index_to_yaml(index))
    assert facts(load_index(path)) == facts(index)


def test_the_real_index_holds_a_photo_that_is_both_clean_and_noisy():
    (scene,) = (scene for scene in real_index().scenes if scene.key == "x-trans/Homarus-americanus")
    shared = {ref.sha1 for ref in scene.ground_truths} & {ref.sha1 for ref in scene.noisy}
    assert len(shared) == 1


@pytest.mark.parametrize("source", ["doi:", "doi:../../etc", "DOI:10.1/x$(id)"])
def test_what_only_begins_like_a_doi_is_no_path(source):
    with pytest.raises(IndexInvalidError, match="is not a DOI; one looks like doi:10"):
        check_source(source)


def test_each_iso_of_the_real_index_has_its_share_of_the_validation_split():
    """The figures of docs/train.md, of noisy photos by full stop."""
    scenes = [scene for scene in real_index().scenes if not scene.test_reserve]
    validation = validation_scenes(scene.name for scene in scenes)
    photos = [
        (int(np.log2(photo.iso / 100) // 1), scene.name in validation)
        for scene in scenes
        for photo in scene.noisy
        if photo.iso
    ]
    planned, held_out = (
        Counter(stop for stop, _ in photos),
        Counter(stop for stop, is_held_out in photos if is_held_out),
    )
    shares = [round(100 * held_out[stop] / planned[stop], 1) for stop in range(10)]
    assert set(planned) == set(range(-1, 10))
    assert (min(shares), max(shares)) == (8.9, 13.3)
    assert (planned[-1], held_out[-1]) == (5, 0)
