"""`verify` finds nothing in a sound folder, and every single thing that was changed in one."""

import io
import shutil
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rawnind.errors import ManifestError
from rawnind.outcomes import whole_scene_result
from rawnind.output.journal.journal import Journal
from rawnind.output.manifest import MANIFEST, MANIFEST_YAML, PAIRS, write_manifest
from rawnind.output.schema import MANIFEST_SCHEMA, PAIRS_SCHEMA
from rawnind.output.store import Store
from rawnind.output.verify import verify
from rawnind.reasons import Reason
from rawnind.records import Cfa
from tests.output.result_maker import FAULTS, RECIPE, edit_yaml, make_result, make_scene, seal

LEFT_OUT = whole_scene_result(make_scene("secret", noisy=2, test_reserve=True), RECIPE, Reason.TEST_RESERVE)


def fill(store):
    """A finished folder: collected, rejected, failed and filtered scenes, one without pairs, one committed twice."""
    results = [
        make_result(
            make_scene("attic", Cfa.X_TRANS, truths=2, noisy=4), store=store, faults=FAULTS[:2], seed=2
        ),
        make_result(make_scene("attic", noisy=2), store=store, seed=3),
        make_result(make_scene("kitchen", noisy=3, unknown_sensor=True), store=store, seed=1),
        make_result(make_scene("no truth", truths=0, noisy=2)),
        make_result(make_scene("no noise", noisy=0)),
        make_result(make_scene("rejected"), faults=(Reason.ALIGNMENT_LOSS, Reason.MASK_MEAN)),
    ]
    journal = Journal(store)
    journal.append([whole_scene_result(results[2].scene, RECIPE, Reason.TIMEOUT)])
    for result in results:
        journal.append([result])
    everything = sorted([*results, LEFT_OUT], key=lambda result: (result.scene.name, result.scene.cfa))
    write_manifest(store, everything, RECIPE, versions={}, contents="")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound") / "out"
    fill(Store(str(folder)))
    return folder


@pytest.fixture
def finished(sound, tmp_path):
    """A copy of the finished folder."""
    shutil.copytree(sound, tmp_path / "out")
    return Store(str(tmp_path / "out"))


def rows(store, name):
    return pq.read_table(store.local(name)).to_pylist()


def put_rows(store, name, found):
    sink = io.BytesIO()
    schema = {MANIFEST: MANIFEST_SCHEMA, PAIRS: PAIRS_SCHEMA}[name]
    pq.write_table(pa.Table.from_pylist(found, schema=schema), sink)
    store.write(name, sink.getvalue(), replace=True)


def found(store):
    return "\n".join(verify(store))


def test_a_sound_folder_has_nothing_wrong(finished):
    assert found(finished) == ""
    seal(finished)
    assert found(finished) == ""


def shards(store):
    return [entry.path for entry in store.list("shards")]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_anywhere_in_any_shard_is_found(finished, data):
    name = data.draw(st.sampled_from(shards(finished)))
    before = finished.read(name)
    place, bit = data.draw(st.integers(0, len(before) - 1)), data.draw(st.integers(0, 7))
    changed = before[:place] + bytes([before[place] ^ 1 << bit]) + before[place + 1 :]
    finished.write(name, changed, replace=True)
    assert found(finished).startswith(f"{name} was changed after it was written: remove it")
    finished.write(name, before, replace=True)


def test_each_missing_shard_is_found(finished):
    names = shards(finished)
    assert len(names) > 4
    for name in names:
        finished.remove(name)
    assert all(f"{name} is missing" in found(finished) for name in names)


def test_a_shard_in_another_ones_place_is_found(finished):
    one, other = shards(finished)[:2]
    finished.write(one, finished.read(other), replace=True)
    assert found(finished).startswith(f"{one} was changed after it was written: remove it")


CROP_CHANGES = {
    name: (lambda value: not value) if isinstance(value, bool)
    else (lambda value: [*value[:-1], value[-1] + 1]) if isinstance(value, list)
    else (lambda value: f"{value}x") if isinstance(value, str)
    else (lambda value: (value or 0) + 1)
    for name, value in {
        field.name: {"string": "", "bool": True, "int32": 0, "double": 0.0}.get(str(field.type), [])
        for field in MANIFEST_SCHEMA
    }.items()
}  # fmt: skip


@pytest.mark.parametrize("column", CROP_CHANGES)
@pytest.mark.parametrize("sealed", [True, False])
def test_a_changed_value_of_any_column_is_found(finished, column, sealed):
    crops = rows(finished, MANIFEST)
    crops[3][column] = CROP_CHANGES[column](crops[3][column])
    put_rows(finished, MANIFEST, crops)
    if sealed:
        seal(finished)
        assert found(finished)
    else:
        assert f"{MANIFEST} is not the file" in found(finished)


def test_a_score_that_was_not_measured_and_is_there_now_is_found(finished):
    crops = rows(finished, MANIFEST)
    unmeasured = next(row for row in crops if row["rotation"] is None)
    unmeasured["rotation"] = 0.0
    put_rows(finished, MANIFEST, crops)
    seal(finished)
    assert "rotation of crop" in found(finished)


@pytest.mark.parametrize("name", [MANIFEST, PAIRS])
@pytest.mark.parametrize("place", [0, 5, -1])
def test_a_removed_row_is_found(finished, name, place):
    less = rows(finished, name)
    del less[place]
    put_rows(finished, name, less)
    seal(finished)
    assert "says" in found(finished)
    assert "committed" in found(finished) or "not in" in found(finished) or "pairs are" in found(finished)


@pytest.mark.parametrize("name", [MANIFEST, PAIRS])
@pytest.mark.parametrize("place", [0, 5, -1])
def test_an_added_row_is_found(finished, name, place):
    more = rows(finished, name)
    extra = dict(more[place])
    extra |= {"scene": "zoo"} if place == -1 else {}
    more.insert(len(more) if place == -1 else place, extra)
    put_rows(finished, name, more)
    seal(finished)
    assert found(finished)


def test_an_invented_crop_with_matching_counts_is_found(finished):
    """Everything that the manifest says of itself adds up; only the journal knows better."""
    crops, pairs = rows(finished, MANIFEST), rows(finished, PAIRS)
    extra = dict(crops[-1], x=crops[-1]["x"] + 36, row_group=crops[-1]["row_group"] + 1, crop_id="invented")
    crops.append(extra)
    for row in pairs:
        row["crops"] += row["pair_id"] == extra["pair_id"]
    put_rows(finished, MANIFEST, crops)
    put_rows(finished, PAIRS, pairs)

    def count(whole):
        whole["counts"]["crops"] += 1
        next(entry for entry in whole["scenes"] if entry["scene"] == extra["scene"])["crops"] += 1

    edit_yaml(finished, count)
    seal(finished)
    assert "were committed" in found(finished)


def test_a_crop_of_a_scene_that_was_left_out_is_found(finished):
    crops, pairs = rows(finished, MANIFEST), rows(finished, PAIRS)
    secret = next(row for row in pairs if row["outcome"] == "filtered")
    extra = dict(crops[-1], scene=secret["scene"], pair_id=secret["pair_id"])
    put_rows(
        finished,
        MANIFEST,
        sorted([*crops, extra], key=lambda row: (row["scene"], row["pair_id"], row["y"], row["x"])),
    )
    seal(finished)
    assert "was left out and yet has crops" in found(finished)


def test_rows_out_of_order_are_found(finished):
    for name in (MANIFEST, PAIRS):
        before = finished.read(name)
        put_rows(finished, name, rows(finished, name)[::-1])
        seal(finished)
        assert found(finished)
        finished.write(name, before, replace=True)


@pytest.mark.parametrize("name", [MANIFEST, PAIRS])
def test_a_file_that_is_gone_or_broken_or_another_is_named(finished, name):
    data = finished.read(name)
    finished.write(name, data[: len(data) // 2], replace=True)
    assert f"{name} in {finished.location} cannot be read" in found(finished)
    table = pq.read_table(io.BytesIO(data))
    table = table.rename_columns([column.upper() for column in table.column_names])
    sink = io.BytesIO()
    pq.write_table(table, sink)
    finished.write(name, sink.getvalue(), replace=True)
    assert f"{name} in {finished.location} lacks the columns scene, cfa, pair_id" in found(finished).replace(
        "crop_id, ", ""
    )
    finished.remove(name)
    assert found(finished) == f"{name} is missing"


COUNTS = [
    (lambda whole, by: whole["counts"].update(crops=whole["counts"]["crops"] + by), "crops"),
    *(
        (lambda whole, by, kind=kind, key=key: whole["counts"][kind].update({key: whole["counts"][kind][key] + by}), kind)
        for kind in ("scenes", "pairs")
        for key in ("planned", "collected", "filtered", "rejected", "failed")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "kind"), COUNTS)
@pytest.mark.parametrize("by", [1, 2])
def test_a_changed_count_is_found(finished, change, kind, by):
    edit_yaml(finished, lambda whole: change(whole, by))
    assert kind in found(finished)


@pytest.mark.parametrize("kind", ["scenes", "pairs"])
def test_counts_that_were_changed_so_that_they_still_add_up_are_found(finished, kind):
    def swap(whole):
        counts = whole["counts"][kind]
        counts["collected"] += 1
        counts["rejected"] -= 1
        whole["conservation"][kind] = (
            whole["conservation"][kind]
            .replace(f"{counts['collected'] - 1} collected", f"{counts['collected']} collected")
            .replace(f"{counts['rejected'] + 1} rejected", f"{counts['rejected']} rejected")
        )

    edit_yaml(finished, swap)
    assert f"collected {kind}, manifest.yaml says" in found(finished)


@pytest.mark.parametrize(
    "change",
    [
        lambda whole: whole["conservation"].update(scenes="7 planned = 7 collected"),
        lambda whole: whole.pop("conservation"),
        lambda whole: whole["reasons"].update(truncated=5),
        lambda whole: whole["reasons"].pop("no_ground_truth"),
        lambda whole: whole["recipe"].update(crop_size=64),
        lambda whole: whole["recipe"].update(min_mask_mean=0.1),
        lambda whole: whole["recipe"].update(digest="0" * 16),
        lambda whole: whole["recipe"].update(surprise=1),
        lambda whole: whole["scenes"].pop(0),
        lambda whole: whole["scenes"].pop(-1),
        lambda whole: whole["scenes"].append(whole["scenes"][0]),
        lambda whole: whole["scenes"][0].update(crops=99),
        lambda whole: whole["scenes"][0].update(outcome="rejected"),
        lambda whole: whole["scenes"][0]["pairs"].update(collected=99),
        lambda whole: whole["scenes"][-3].update(detail="something else", reason="timeout"),
        lambda whole: whole["scenes"].append(
            {"scene": "zoo", "cfa": "bayer", "outcome": "collected", "pairs": {}}
        ),
        lambda whole: whole["scenes"].append({}),
    ],
)
def test_whatever_is_changed_in_the_yaml_is_found(finished, change):
    edit_yaml(finished, change)
    assert found(finished)


def part(store, number):
    return store.list("parts")[number].path


@pytest.mark.parametrize("number", range(7))
def test_a_changed_part_is_found(finished, number):
    name = part(finished, number)
    data = finished.read(name)
    finished.write(name, data[:-20] + bytes([data[-20] ^ 1]) + data[-19:], replace=True)
    assert f"{name} is damaged" in found(finished)


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_missing_part_is_found(finished, number):
    finished.remove(part(finished, number))
    assert f"parts with the commits {number} to {number} are missing" in found(finished)
    if number in {1, 2}:  # the first one holds a commit that was overtaken by the fourth
        assert "was never committed" in found(finished)
    elif number == 3:
        assert "is not what was committed" in found(finished)


def test_the_last_part_missing_is_found(finished):
    finished.remove(part(finished, -1))
    assert "pair" in found(finished)
    assert "was never committed" in found(finished)


def test_a_later_commit_that_the_manifest_lacks_is_found(finished):
    result = Journal(finished).read("bayer/kitchen")
    pairs = (replace(result.pairs[0], crops=result.pairs[0].crops[:1], measured=replace(result.pairs[0].measured, gain=2.0)),
             *result.pairs[1:])  # fmt: skip
    Journal(finished).append([replace(result, pairs=pairs)])
    assert "gain in pairs.parquet is not what was committed" in found(finished)


def test_a_commit_with_another_recipe_is_found(finished):
    result = Journal(finished).read("bayer/kitchen")
    Journal(finished).append([replace(result, recipe="0" * 16)])
    assert "was made with recipe 0000000000000000" in found(finished)


def test_without_a_manifest_there_is_nothing_to_verify(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(verify(Store(str(tmp_path))))


def test_a_yaml_that_is_none_cannot_be_verified(finished):
    finished.write(MANIFEST_YAML, b"[", replace=True)
    with pytest.raises(ManifestError):
        list(verify(finished))


MEASURE = """
import resource, sys
from rawnind.output.store import Store
from rawnind.output.verify import verify
def peak(folder):
    assert all("shards" in problem for problem in verify(Store(folder)))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
few = peak(sys.argv[1])
print(peak(sys.argv[2]) - few)
"""


def test_memory_does_not_grow_with_the_number_of_crops(tmp_path):
    """20,000 rows as dicts would take 60 MB; they pass in blocks."""
    for folder, count in (("few", 1), ("many", 40)):
        store = Store(str(tmp_path / folder))
        results = []
        for number in range(count):
            result = make_result(make_scene(f"scene {number:02d}", noisy=1))
            crops = tuple(replace(result.pairs[0].crops[0], x=36 * n) for n in range(1, 501))
            results.append(replace(result, pairs=(replace(result.pairs[0], crops=crops),)))
        Journal(store).append(results[:1])
        for result in results[1:]:
            Journal(store).append([result])
        write_manifest(store, results, RECIPE, versions={}, contents="")
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "few"), str(tmp_path / "many")]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"\n20,000 rows: {grown / 1e6:.1f} MB more than 500")
    assert grown < 20e6
