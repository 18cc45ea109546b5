"""The whole pair chain, from RAW files to shards and manifest, against what is true of the sample set.

Run with `-s` to see what the masks find and lose at each ISO.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rawpy

from rawnind.imaging.photo import Photo
from rawnind.noise.profile import profiles
from rawnind.noise.samples import Method, samples_of_output
from rawnind.outcomes import problems
from rawnind.output.journal.journal import Journal
from rawnind.output.manifest import write_manifest
from rawnind.output.shards import read_crop
from rawnind.output.store import Store
from rawnind.output.verify import verify
from rawnind.pipeline.scene import Meter, process_scene
from rawnind.planning import SceneFilter, make_plan
from rawnind.reasons import Reason
from rawnind.recipe import Pairing, Recipe
from rawnind.records import Cfa
from rawnind.sample import make_sample
from rawnind.sample.photos import ScenePhotos
from rawnind.sample.scenes import SCENES
from rawnind.source.decode import decode
from rawnind.source.index import load_index

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 640, 832
RECIPE = Recipe(crop_size=192, stride=192)
# ITU-R BT.2020: primaries and white D65 as (x, y)
REC2020 = np.array([(0.708, 0.292), (0.170, 0.797), (0.131, 0.046)])
D65 = (0.3127, 0.3290)
TILES = {
    Cfa.BAYER: ["RG", "GB"],
    Cfa.X_TRANS: ["GGRGGB", "GGBGGR", "BRGRBG", "GGBGGR", "GGRGGB", "RBGBRG"],
}


def read(ref):
    return Photo.from_visible(*decode(ref))


class Run:
    """Every scene of a source, processed, committed and listed as the job does it, without Ray."""

    def __init__(self, source, output, recipe=RECIPE, selection=None):
        self.source, self.recipe, self.store = source, recipe, Store(str(output))
        self.plan = make_plan(load_index(source).scenes, selection or SceneFilter(), recipe)
        journal = Journal(self.store)
        for scene in self.plan.selected:
            journal.append([process_scene(scene, recipe, self.store, meter=Meter(), read=read)])
        self.results = {
            scene.key: self.plan.filtered(scene)
            if scene.key in self.plan.left_out
            else journal.read(scene.key)
            for scene in self.plan.scenes
        }
        self.summary = write_manifest(
            self.store, self.results.values(), recipe, versions={}, contents="made for a test"
        )
        self.crops = pq.read_table(Path(self.store.location) / "manifest.parquet").to_pylist()
        self.pairs = pq.read_table(Path(self.store.location) / "pairs.parquet").to_pylist()

    def pixels(self, row):
        crop = read_crop(self.store, row["shard"], row["row_group"], row["size"])
        assert crop.crop_id == row["crop_id"]
        return crop


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tmp_path_factory.mktemp("truth") / "sample"


@pytest.fixture(scope="module")
def truth(source):
    return make_sample(source, height=HEIGHT, width=WIDTH)


@pytest.fixture(scope="module")
def run(source, truth, tmp_path_factory):
    return Run(source, tmp_path_factory.mktemp("truth-out") / "out")


@pytest.fixture(scope="module")
def collected(run, truth):
    """(row of pairs.parquet, what is true of it) of every collected pair."""
    rows = [row for row in run.pairs if row["outcome"] == "collected"]
    return [(row, truth.pair(row["gt_sha1"], row["noisy_sha1"])) for row in rows]


@pytest.fixture(scope="module")
def libraw(source, truth):
    """SHA-1 -> visible area as LibRaw gives it, and a function (y, x) -> R, G or B; made when asked for."""
    cache = {}

    def look(sha1):
        if sha1 not in cache:
            with rawpy.imread(str(source / truth.file(sha1).filename)) as raw:
                top, left = raw.sizes.top_margin, raw.sizes.left_margin
                colors = [["RGBG"[raw.raw_color(top + y, left + x)] for x in range(6)] for y in range(6)]
                cache[sha1] = raw.raw_image_visible.copy(), colors
        return cache[sha1]

    return look


def test_every_planned_pair_has_the_outcome_and_the_reason_that_the_truth_names(run, truth):
    for row in run.pairs:
        matching = [pair for pair in truth.pairs if pair.noisy_sha1 == row["noisy_sha1"]]
        expected = {(pair.outcome, pair.reason) for pair in matching}
        assert expected == {(row["outcome"], row["reason"])}, (row["scene"], row["iso"], row["detail"])
    assert Counter(row["noisy_sha1"] for row in run.pairs) == Counter(
        {pair.noisy_sha1 for pair in truth.pairs}
    )


def test_noise_profiles_are_those_of_the_simulated_cameras(run, truth):
    files, count = {(file.camera, file.iso): file for file in truth.files}, Counter()
    for camera in profiles(samples_of_output(run.store)):
        for entry in camera.entries:
            file = files[camera.camera, entry.iso]
            b = file.read_sigma**2 + 1 / 12 / (file.white_level - np.mean(file.black_level)) ** 2
            for part, value, exact in (("a", entry.a, file.shot_variance), ("b", entry.b, b)):
                if value is not None:  # null where the standard error exceeds 2.5 %
                    count[part] += 1
                    assert value.value == pytest.approx(exact, rel=0.06), (camera.camera, entry.iso, part)
            if any(file.margins):
                assert entry.b.method is Method.BORDER
                assert abs(entry.row.value - file.row_sigma) < 4 * entry.row.error
    assert min(count["a"], count["b"]) >= 54


def test_every_scene_has_the_outcome_and_the_reason_that_the_truth_names(run, truth):
    assert len(run.results) == len(truth.scenes)
    for scene in truth.scenes:
        result = run.results[f"{scene.cfa}/{scene.name}"]
        assert (result.outcome, result.reason) == (scene.outcome, scene.reason), result.detail
    bad = {scene.reason for scene in truth.scenes} | {pair.reason for pair in truth.pairs}
    assert bad == {None, *(Reason(name) for name in
                   ("no_ground_truth", "sha1_mismatch", "truncated", "alignment_uncertain"))}  # fmt: skip


def test_the_detail_of_a_failed_file_names_that_file(run, truth):
    for result in run.results.values():
        for failed in result.failed_files:
            assert failed.photo.filename in failed.detail
            assert truth.file(failed.photo.sha1).damage is not None
    assert sum(len(result.failed_files) for result in run.results.values()) == 2


def test_whole_pixel_shifts_are_exact_up_to_iso_12800_and_within_one_above(collected):
    assert len(collected) >= 15
    for row, pair in collected:
        away = [abs(row["shift_y"] - pair.shift[0]), abs(row["shift_x"] - pair.shift[1])]
        if max(map(abs, pair.subpixel)) == 0.5:  # both neighbours are as near
            away = [abs(row[f"shift_{axis}"] + row[f"subpixel_{axis}"] - whole - part) > 0.2
                    for axis, whole, part in zip("yx", pair.shift, pair.subpixel, strict=True)]  # fmt: skip
        assert max(away) <= (0 if row["iso"] <= 12800 else 1), (row["scene"], row["iso"])


def test_sub_pixel_shifts_are_those_of_the_truth(collected):
    for row, pair in collected:
        for axis, whole, part in zip("yx", pair.shift, pair.subpixel, strict=True):
            found = row[f"shift_{axis}"] + row[f"subpixel_{axis}"]
            assert found == pytest.approx(whole + part, abs=0.1), (row["scene"], row["iso"])


def test_gains_are_within_one_percent(collected):
    for row, pair in collected:
        assert row["gain"] == pytest.approx(pair.gain, rel=0.01), (row["scene"], row["iso"])


def test_photos_that_were_neither_turned_nor_scaled_are_measured_so(collected):
    for row, _ in collected:
        assert row["rotation"] is None or abs(row["rotation"]) < 0.05, (row["scene"], row["iso"])
        assert row["scale"] is None or abs(row["scale"]) < 0.001, (row["scene"], row["iso"])


def _whole_mask(run, row):
    """What the pair's crops cover, and what of it is valid, in the noisy photo's visible area."""
    covered, usable = np.zeros((2, HEIGHT, WIDTH), bool)
    for crop in (crop for crop in run.crops if crop["pair_id"] == row["pair_id"]):
        box = np.s_[crop["y"] : crop["y"] + crop["size"], crop["x"] : crop["x"] + crop["size"]]
        covered[box] = True
        usable[box] = run.pixels(crop).valid
    return covered, usable


def test_moved_objects_are_masked_and_still_area_is_kept_at_every_iso(run, truth, collected):
    print("\n  ISO     scene        moved area masked   still area lost")
    for row, pair in sorted(collected, key=lambda item: item[0]["iso"]):
        covered, usable = _whole_mask(run, row)
        moved = np.zeros_like(covered)
        near = np.zeros_like(covered)
        if pair.motion:
            moved = pair.motion.covers(HEIGHT, WIDTH) & covered
            near = pair.motion.covers(HEIGHT, WIDTH, grow=16)
        if lamp := truth.file(row["noisy_sha1"]).lamp:
            near |= lamp.covers(HEIGHT, WIDTH, grow=60)
        still = covered & ~near
        lost = float((~usable & still).sum() / still.sum())
        found = float((~usable & moved).sum() / moved.sum()) if moved.any() else None
        share = "      -" if found is None else f"{found:7.1%}"
        print(f"  {row['iso']:<7} {row['scene']:<12} {share:>18} {lost:17.2%}")
        assert lost <= 0.02, (row["scene"], row["iso"])
        assert found is None or found >= 0.9, (row["scene"], row["iso"])


def test_what_the_lamp_overexposes_is_masked_and_recorded(run, truth, collected):
    rows = [row for row, _ in collected if truth.file(row["noisy_sha1"]).lamp]
    assert rows
    for row in rows:
        covered, usable = _whole_mask(run, row)
        lamp = truth.file(row["noisy_sha1"]).lamp.covers(HEIGHT, WIDTH, grow=-2)
        assert (lamp & covered).any()
        assert not (usable & lamp).any()
        assert row["overexposed_fraction"] > 0
    dark = [row for row, _ in collected if not truth.file(row["noisy_sha1"]).lamp and row["iso"] <= 12800]
    assert all(row["overexposed_fraction"] < 0.001 for row in dark)


def test_the_noisier_photo_has_the_lower_score(collected):
    for name in {row["scene"] for row, _ in collected}:
        rows = sorted((row["iso"], row["msssim"]) for row, _ in collected if row["scene"] == name)
        quiet, loud = rows[0], rows[-1]
        assert quiet[0] == loud[0] or quiet[1] > loud[1], name


def test_stored_pixels_are_libraws_at_the_recorded_coordinates(run, libraw):
    assert run.crops
    for row in run.crops:
        crop, size = run.pixels(row), row["size"]
        y, x = row["y"], row["x"]
        noisy = libraw(row["noisy_sha1"])[0][y : y + size, x : x + size]
        y, x = y + row["shift_y"], x + row["shift_x"]
        ground_truth = libraw(row["gt_sha1"])[0][y : y + size, x : x + size]
        np.testing.assert_array_equal(crop.noisy_raw, noisy)
        np.testing.assert_array_equal(crop.gt_raw, ground_truth)
        assert row["valid_fraction"] == pytest.approx(crop.valid.mean(), abs=1e-12)


def test_every_crop_starts_on_the_first_site_of_the_tile(run, libraw):
    for row in run.crops:
        tile, colors = TILES[Cfa(row["cfa"])], libraw(row["noisy_sha1"])[1]
        found = [
            "".join(colors[(row["y"] + y) % 6][(row["x"] + x) % 6] for x in range(len(tile)))
            for y in range(len(tile))
        ]
        assert found == tile, row["crop_id"]


def test_levels_and_matrices_in_the_manifest_are_the_files_own(run, truth):
    for row in run.crops:
        noisy, ground_truth = truth.file(row["noisy_sha1"]), truth.file(row["gt_sha1"])
        assert (tuple(row["black_level"]), row["white_level"]) == (noisy.black_level, noisy.white_level)
        assert (tuple(row["gt_black_level"]), row["gt_white_level"]) == (
            ground_truth.black_level, ground_truth.white_level)  # fmt: skip
        np.testing.assert_allclose(row["rgb_xyz_matrix"], noisy.rgb_xyz_matrix, atol=2e-4)
        assert (row["iso"], row["gt_iso"]) == (noisy.iso, ground_truth.iso)
        assert row["camera"].split()[-1] == noisy.camera.split()[-1]


def _xyz_to_rec2020():
    x, y = REC2020.T
    columns = np.stack([x / y, np.ones(3), (1 - x - y) / y])
    white = np.array([D65[0] / D65[1], 1, (1 - D65[0] - D65[1]) / D65[1]])
    return np.linalg.inv(columns * np.linalg.solve(columns, white))


@pytest.fixture(scope="module")
def rendered(truth):
    """SHA-1 of a GT and (dy, dx) -> (3, height, width) linear Rec.2020 that it would have shown from there, without CFA
    and without noise.
    """
    cache = {}

    def render(sha1, move):
        if (sha1, move) not in cache:
            number, plan = next((n, p) for n, p in enumerate(SCENES) if p.name == truth.file(sha1).scene)
            stage = ScenePhotos(plan=plan, number=number, seed=truth.seed, size=(HEIGHT, WIDTH))
            file = truth.file(sha1)
            shot = next(shot for shot in plan.shots if shot.ground_truth and shot.iso == file.iso)
            thing = stage.ellipse(shot.object_at, 0.13)
            camera = [
                stage.scenery(shot)[0].levels(
                    tuple(np.add(stage.offset(shot), move)),
                    (HEIGHT, WIDTH),
                    np.full((1, 1), color, np.uint8),
                    thing,
                )
                for color in range(3)
            ]
            matrix = _xyz_to_rec2020() @ np.linalg.inv(np.reshape(file.rgb_xyz_matrix, (3, 3)))
            cache[sha1, move] = np.einsum("kc,cyx->kyx", matrix, np.clip(np.stack(camera) / shot.gain, 0, 1))
        return cache[sha1, move]

    return render


def _psnr(scene, found, top, left):
    """Of a crop against a scene's part from (top, left) on; its edge does not count."""
    inner = np.arange(2, found.shape[-1] - 2)
    expected = scene[:, (top + inner).clip(0, HEIGHT - 1)][:, :, (left + inner).clip(0, WIDTH - 1)]
    error = expected - found[:, 2:-2, 2:-2]
    return 10 * np.log10(np.quantile(scene, 0.999) ** 2 / np.mean(error**2))


def test_gt_rgb_is_the_scene_in_linear_rec2020_from_where_the_noisy_photo_was_taken(run, collected, rendered):
    """One site off it must fit clearly worse: so odd and sub-pixel shifts are right too."""
    print("\n  scene        shift        PSNR of gt_rgb   one site off")
    for row, pair in collected:
        own = [crop for crop in run.crops if crop["pair_id"] == row["pair_id"]]
        crop = min(own, key=lambda each: each["overexposed_fraction"])
        scene = rendered(row["gt_sha1"], tuple(np.add(pair.shift, pair.subpixel)))
        found, y, x = run.pixels(crop).gt_rgb.astype(np.float64), crop["y"], crop["x"]
        here = _psnr(scene, found, y, x)
        off = max(_psnr(scene, found, y + dy, x + dx) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)))
        print(f"  {row['scene']:<12} {pair.shift!s:<12} {here:10.1f} dB {off:11.1f} dB")
        assert here > 37, row["scene"]
        assert here > off + 2, row["scene"]
    assert sum(pair.shift[0] % 2 or pair.shift[1] % 2 for _, pair in collected) >= 5


def test_counts_add_up_and_verify_finds_nothing(run, truth):
    scenes, pairs = run.summary.scenes, run.summary.pairs
    assert (scenes.planned, pairs.planned) == (len(truth.scenes), len({p.noisy_sha1 for p in truth.pairs}))
    assert scenes.open == pairs.open == 0
    assert run.summary.crops == len(run.crops) == sum(row["crops"] for row in run.pairs)
    assert dict(run.summary.reasons) == Counter(Reason(row["reason"]) for row in run.pairs if row["reason"])
    assert list(verify(run.store)) == []


def test_results_pass_the_checks_that_the_bridge_makes(run):
    for result in run.results.values():
        assert list(problems(result, result.scene, run.recipe)) == []


def test_the_test_reserve_is_marked_and_left_out_when_asked(run, truth, source, tmp_path):
    reserved = {scene.name for scene in truth.scenes if scene.test_reserve}
    assert reserved
    for row in (*run.crops, *run.pairs):
        assert row["test_reserve"] == (row["scene"] in reserved)
    hashes = {file.sha1 for file in truth.files if file.scene in reserved}
    few = [scene for scene in load_index(source).scenes if scene.name in reserved | {"tissue"}]
    folder = tmp_path / "few"
    folder.mkdir()
    for scene in few:
        for ref in (*scene.ground_truths, *scene.noisy):
            (folder / ref.filename).hardlink_to(ref.path)
    without = Run(folder, tmp_path / "out", selection=SceneFilter(exclude_test_reserve=True))
    assert without.summary.scenes.filtered == 1
    assert without.summary.scenes.collected == 1
    assert not hashes & {row[name] for row in without.crops for name in ("gt_sha1", "noisy_sha1")}
    assert {row["outcome"] for row in without.pairs if row["scene"] in reserved} == {"filtered"}
    assert not [
        entry for entry in without.store.list("shards") if any(name in entry.path for name in reserved)
    ]
    assert list(verify(without.store)) == []


def test_best_pairing_keeps_of_all_pairs_the_one_with_the_lowest_loss_and_changes_nothing_in_it(
    source, truth, run, tmp_path
):
    folder = tmp_path / "few"
    folder.mkdir()
    names = {"coffee-cup", "tissue"}
    for scene in load_index(source).scenes:
        for ref in (*scene.ground_truths, *scene.noisy) if scene.name in names else ():
            (folder / ref.filename).hardlink_to(ref.path)
    every = Run(folder, tmp_path / "out", recipe=Recipe(crop_size=192, stride=192, pairing=Pairing.ALL))
    assert every.summary.pairs.planned == len([pair for pair in truth.pairs if pair.scene in names])
    ours = {row["pair_id"]: row for row in run.pairs}
    again = [row for row in every.pairs if row["pair_id"] in ours]
    assert len(again) == 4
    for row in again:
        recorded = ours[row["pair_id"]]
        assert {**row, "recipe": ""} == {**recorded, "recipe": ""}
        best = min((each["alignment_loss"], each["gt_sha1"]) for each in every.pairs
                   if each["noisy_sha1"] == row["noisy_sha1"])  # fmt: skip
        assert best == (recorded["alignment_loss"], recorded["gt_sha1"])
