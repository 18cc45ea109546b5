"""The page of a report: complete, honest about what is missing, and harmless whatever a folder's names are."""

import base64
import json
import re
import shutil
import uuid
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import rawpy
import yaml
from click.testing import CliRunner

from rawnind.cli import main
from rawnind.errors import ConfigError, ManifestError, NotPreparedError, OutputError
from rawnind.exit_codes import ExitCode
from rawnind.noise.run import noise
from rawnind.outcomes import whole_scene_result
from rawnind.output.events import EventLog, read_events
from rawnind.output.journal.journal import Journal
from rawnind.output.manifest import MANIFEST_YAML, PAIRS, write_manifest
from rawnind.output.store import Store
from rawnind.reasons import Outcome, Reason
from rawnind.records import Cfa
from rawnind.report.figures import noise_fits
from rawnind.report.page import INDEX, report
from rawnind.report.previews import preview
from rawnind.report.tables import coverage, stages
from rawnind.report.thumbnails import Thumbnails
from rawnind.source.index import load_index
from tests.output.result_maker import RECIPE, edit_yaml, make_result, make_scene

GOLDEN = Path(__file__).parent.parent / "golden"
VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """The elements of a page, and the texts of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.open = [], [], []
        self.feed(text)
        assert self.open == [], "elements that are not closed"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)

    def named(self, attribute):
        return [attrs[attribute] for _, attrs in self.elements if attribute in attrs]

    def pictures(self):
        """Every picture that the page holds, decoded."""
        for uri in self.named("src"):
            if data := uri.partition("base64,")[2]:
                yield cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)


def page_of(store, **options):
    report(store.uri, **options)
    return Page(store.read(INDEX).decode())


def make_results(store):
    """Scenes of every outcome, in the manifest's order."""
    made = [
        make_result(make_scene("attic", Cfa.X_TRANS), store=store),
        make_result(make_scene("barn"), store=store, faults=[Reason.ALIGNMENT_LOSS]),
        make_result(make_scene("cellar", truths=0)),
        make_result(make_scene("den"), faults=[Reason.TRUNCATED, Reason.MISSING_FILE]),
        whole_scene_result(make_scene("eaves", test_reserve=True), RECIPE, Reason.TEST_RESERVE),
    ]
    assert {result.outcome for result in made} == set(Outcome)
    return made


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder, its results and its page. Read only."""
    store = Store(str(tmp_path_factory.mktemp("report") / "out"))
    results = make_results(store)
    write_manifest(store, results, RECIPE, versions={"rawnind": "0.1"}, contents="made for a test")
    return store, results, page_of(store)


@pytest.fixture
def made(kept, tmp_path):
    """A copy of the folder, without the page."""
    shutil.copytree(kept[0].uri, tmp_path / "out", ignore=shutil.ignore_patterns("report"))
    return Store(str(tmp_path / "out"))


def planned(store):
    scenes = [
        f"{entry['cfa']}/{entry['scene']}" for entry in yaml.safe_load(store.read(MANIFEST_YAML))["scenes"]
    ]
    with store.open(PAIRS) as file:
        rows = pq.read_table(file).to_pylist()
    return scenes, [f"{row['cfa']}/{row['scene']}/{row['pair_id']}" for row in rows]


def test_every_scene_and_every_pair_of_the_manifest_is_in_the_page_once(kept):
    store, _, page = kept
    scenes, pairs = planned(store)
    assert Counter(page.named("data-scene")) == dict.fromkeys(scenes, 1)
    assert Counter(page.named("data-pair")) == dict.fromkeys(pairs, 1)


def test_a_run_that_has_not_ended_is_shown_from_its_journal(store):
    """What the run leaves out is committed nowhere, and appears with the manifest."""
    committed = [result for result in make_results(store) if result.outcome is not Outcome.FILTERED]
    EventLog(store, "run").add("begin", next_seq=0, planned_scenes=7, planned_pairs=12, open_scenes=6)
    Journal(store).append(committed)
    store.write("recipe.yaml", yaml.safe_dump({"format": 1, **RECIPE.as_dict()}).encode())
    page = page_of(store)
    assert Counter(page.named("data-scene")) == {result.scene.key: 1 for result in committed}
    pairs = [f"{result.scene.key}/{pair.pair_id}" for result in committed for pair in result.pairs]
    assert Counter(page.named("data-pair")) == dict.fromkeys(pairs, 1)
    text = store.read(INDEX).decode()
    assert "2 of 7 scenes have no outcome yet" in text
    assert "7 planned = 2 collected + 1 filtered + 1 rejected + 1 failed + 2 open" in text
    assert all(picture.std() > 1 for picture in page.pictures())


def test_pixels_are_shown_and_shards_that_are_gone_are_said_to_be(kept, made):
    _, results, page = kept
    found = list(page.pictures())
    assert len(found) == 4 * sum(len(pair.crops) > 0 for result in results for pair in result.pairs)
    assert all(picture is not None and picture.std() > 1 for picture in found)
    made.remove(next(pair.shard.path for result in results for pair in result.pairs if pair.shard))
    assert len(list(page_of(made, worst_count=0).pictures())) == len(found) - 4
    assert "its pixels cannot be read" in made.read(INDEX).decode()


def test_names_from_outside_are_text(made):
    """Readers refuse such scenes in tables; entries, files, cameras and details may have them."""
    evil = '<script>alert(1)</script><img src=x onerror="alert(2)">'

    def inject(whole):
        whole["scenes"][0]["scene"] = evil
        whole["scenes"][3] |= {"detail": evil, "scene": evil, "reason": evil}
        whole["versions"][evil] = evil
        whole["recipe"][evil] = evil

    edit_yaml(made, inject)
    page = page_of(made)
    text = made.read(INDEX).decode()
    assert evil not in text
    assert "&lt;script&gt;alert(1)" in text
    assert [attrs for tag, attrs in page.elements if "onerror" in attrs or tag == "script"] == [{}]
    assert "alert" not in "".join(page.scripts)


def test_charts_take_names_as_text(maker):
    maker.scene("cat", camera="</svg><script>$x$ & alert(1)</script>", crops=1)
    maker.scene("dog", camera="_hidden", crops=1, iso=100)
    maker.finish()
    page = page_of(maker.store)
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert "$x$ &amp; alert(1)" in maker.store.read(INDEX).decode()


def test_names_that_run_from_right_to_left_stay_apart_from_the_numbers_beside_them(maker):
    scene, camera = "שלום", "מצלמה"
    maker.scene(scene, camera=camera, crops=1).finish()
    maker.store.write("events.jsonl", json.dumps(commit(f"bayer/{scene}", decode_seconds=1.0)).encode())
    page_of(maker.store)
    text = maker.store.read(INDEX).decode()
    words = re.sub(r'<svg.*?</svg>|"[^"]*"|<th>[^<]*</th>', "", text[text.index("<h1>") :], flags=re.DOTALL)
    for name, places in ((scene, 3), (camera, 1)):
        assert words.count(name) >= places
        assert words.count(name) == len(re.findall(rf"<bdi>[^<]*{name}[^<]*</bdi>", words))


def commit(scene, **telemetry):
    return {"event": "commit", "scene": scene, "telemetry": telemetry}


def test_stages_have_the_sum_of_their_seconds_and_the_largest_memory():
    found = stages(
        [
            {"event": "begin"},
            commit("bayer/a", decode_seconds=1.0, mask_seconds=4.0, decode_memory_bytes=3e8, mask_memory_bytes=5e8,
                   peak_memory_bytes=9e8),
            commit("bayer/b", fetch_seconds=0.5, decode_seconds=2.0, mask_seconds=9.0, peak_memory_bytes=1e9),
            commit("bayer/c", decode_seconds=1.0, decode_memory_bytes=2e8, peak_memory_bytes=8e8),
        ]
    )  # fmt: skip
    assert found.seconds == {"decode": 4.0, "mask": 13.0, "fetch": 0.5}
    assert found.memory == {"decode": 3e8, "mask": 5e8}
    assert (found.peak, found.scenes, found.measured) == (1e9, 3, 2)
    assert found.slowest == (("bayer/b", 11.5), ("bayer/a", 5.0), ("bayer/c", 1.0))


def test_the_page_of_a_run_has_time_and_memory_of_each_stage(prepared, tmp_path):
    store = Store(str(shutil.copytree(prepared, tmp_path / "out")))
    page_of(store)
    text = store.read(INDEX).decode()
    table = text.partition('<section id="time">')[2].partition("</table>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall("<tr>(<td>.*?)</tr>", table)]
    assert [row[0] for row in rows] == ["decode", "align", "mask", "write"]
    expected = stages(read_events(store))
    assert [row[1] for row in rows] == [f"{seconds:.1f}" for seconds in expected.seconds.values()]
    assert [row[4] for row in rows] == [f"{size / 1e6:,.0f} MB" for size in expected.memory.values()]
    assert f"measured in {expected.measured} of {expected.scenes} scenes" in text


def test_the_noise_charts_have_what_the_noise_command_writes(prepared, tmp_path):
    noise(prepared, to=tmp_path)
    written = {each["camera"]: each for each in json.loads((tmp_path / "noise.json").read_text())["cameras"]}
    pairs = pq.read_table(prepared / PAIRS).to_pylist()
    for part, (_, _, found) in zip("ab", noise_fits(pairs), strict=True):
        assert found
        for camera, fit in found.items():
            values = {
                entry["iso"]: (entry[part]["value"] ** (1 if part == "a" else 0.5), entry[part]["method"])
                for entry in written[camera]["profiles"]
                if entry["color"] == "green" and entry[part] and entry[part]["method"] != "curve"
            }
            drawn = {iso: (y, True) for iso, y in fit.together} | {iso: (y, False) for iso, y in fit.unsure}
            assert drawn == {
                iso: (pytest.approx(y), method != "photo") for iso, (y, method) in values.items()
            }
            (curve,) = (each for each in written[camera]["curves"] if each["color"] == "green")
            for iso, y in fit.line:
                expected = (
                    curve["a_per_iso"] * iso
                    if part == "a"
                    else (curve["b_fixed"] + curve["b_per_iso2"] * iso**2) ** 0.5
                )
                assert y == pytest.approx(expected)
            assert all(y > 0 for _, y in fit.single)
    titles = ("Shot noise: a of green", "Read noise: root of b of green")
    copy = Store(str(shutil.copytree(prepared, tmp_path / "out")))
    assert set(titles) <= set(page_of(copy).named("aria-label"))


def test_the_page_needs_nothing_but_itself(kept):
    store, _, page = kept
    policy = next(attrs["content"] for tag, attrs in page.elements if attrs.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")
    links = [*page.named("src"), *page.named("href"), *page.named("xlink:href")]
    assert all(link.startswith(("data:", "#")) for link in links)
    assert not re.search(r"@import|url\((?!data:|#)", store.read(INDEX).decode())


def test_the_same_folder_gives_the_same_page(kept):
    store, _, _ = kept
    first = store.read(INDEX)
    report(store.uri)
    assert store.read(INDEX) == first


def test_one_scene_has_a_page_of_its_own(made):
    place = report(made.uri, scene="barn", worst_count=1)
    assert place == f"{made.uri}/report/bayer-barn.html"
    page = Page(made.read("report/bayer-barn.html").decode())
    assert page.named("data-scene") == ["bayer/barn"]
    assert {pair.rpartition("/")[0] for pair in page.named("data-pair")} == {"bayer/barn"}
    assert not made.exists(INDEX)
    with pytest.raises(ConfigError, match="has no scene 'barns'"):
        report(made.uri, scene="barns")


def test_a_list_of_the_worst_has_as_many_as_asked_for_and_leads_to_the_pairs(made):
    page = page_of(made, worst_count=2)
    cards = [attrs for tag, attrs in page.elements if tag == "a" and attrs.get("class") == "card"]
    assert len(cards) == 4 * 2
    assert {attrs["href"][1:] for attrs in cards} <= set(page.named("id"))


def test_a_report_of_an_object_store(s3):
    store = Store(f"s3://bucket/{uuid.uuid4().hex}?{s3}")
    moved = [make_result(make_scene("attic", Cfa.X_TRANS), store=store)]
    write_manifest(store, moved, RECIPE, versions={}, contents="made for a test")
    page = page_of(store)
    assert page.named("data-scene") == ["x-trans/attic"]
    assert len(list(page.pictures())) == 4 * len(moved[0].pairs)
    assert "secret" not in store.read(INDEX).decode()


@pytest.mark.parametrize("version", ["format-1", "before-compression"])
def test_folders_of_earlier_versions_have_a_page(version, tmp_path):
    shutil.copytree(GOLDEN / version, tmp_path / "out")
    store = Store(str(tmp_path / "out"))
    page, (scenes, pairs) = page_of(store, worst_count=1), planned(store)
    assert (sorted(page.named("data-scene")), sorted(page.named("data-pair"))) == (
        sorted(scenes),
        sorted(pairs),
    )
    assert all(picture.std() > 1 for picture in page.pictures())


def test_a_damaged_entry_is_named(made):
    edit_yaml(made, lambda whole: whole["scenes"][1].update(crops="many"))
    with pytest.raises(ManifestError, match=r"manifest.yaml in .* is damaged: scenes: crops: .* integer"):
        report(made.uri)


def test_a_photo_is_shown_as_libraw_shows_it_and_only_where_its_file_is_unchanged(sample_set, tmp_path):
    (scene,) = (scene for scene in load_index(sample_set).scenes if scene.name == "cat")
    photo = scene.ground_truths[0]
    picture = preview(photo, 100)
    height, width, _ = picture.shape
    assert 50 <= width <= 100
    with rawpy.imread(photo.path) as raw:
        shown = cv2.resize(raw.postprocess(use_camera_wb=True), (width, height), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(picture.mean(axis=2).ravel(), shown.mean(axis=2).ravel())[0, 1] > 0.95
    (tmp_path / "other.dng").write_bytes(Path(photo.path).read_bytes()[:-1])
    for name in ("other.dng", "missing.dng"):
        assert preview(replace(photo, path=str(tmp_path / name)), 100) is None


def test_nothing_of_others_is_replaced_and_links_are_not_followed(made, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = made.local("report")
    folder.symlink_to(elsewhere)
    with pytest.raises(OutputError, match="is a symbolic link"):
        report(made.uri)
    assert list(elsewhere.iterdir()) == []
    folder.unlink()
    folder.mkdir()
    (folder / "index.html").write_text("<h1>mine</h1>")
    with pytest.raises(ConfigError, match="is not a page of `rawnind report`"):
        report(made.uri)
    assert (folder / "index.html").read_text() == "<h1>mine</h1>"


def test_the_command_says_where_the_page_is_and_what_is_wrong(made, tmp_path):
    run = CliRunner().invoke
    done = run(main, ["report", made.uri, "--worst", "0"])
    assert (done.exit_code, done.stdout) == (0, f"{made.uri}/{INDEX}: open it in a browser\n")
    done = run(main, ["report", str(tmp_path / "nothing")])
    assert (done.exit_code, "holds no committed scene" in done.stderr) == (ExitCode.USAGE, True)
    assert run(main, ["report", made.uri, "--worst", "-1"]).exit_code == ExitCode.USAGE
    with pytest.raises(NotPreparedError):
        report(str(tmp_path))


def test_a_gap_is_an_iso_without_a_pair_between_two_that_the_camera_has():
    def row(camera, iso, outcome="collected"):
        return {"camera": camera, "iso": iso, "outcome": outcome}

    table = coverage(
        [row("A", 100), row("A", 400), row("B", 200), row("A", 200, "rejected"), row(None, None, "failed")]
    )
    assert table.isos == (100, 200, 400, None)
    assert dict(table.cameras) == {
        "A": ((1, 1, False), (0, 1, True), (1, 1, False), (0, 0, False)),
        "B": ((0, 0, False), (1, 1, False), (0, 0, False), (0, 0, False)),
        "not decoded": ((0, 0, False), (0, 0, False), (0, 0, False), (0, 1, False)),
    }


@pytest.mark.parametrize("each", [900, 2000, 20_000])
def test_a_thumbnail_fits_whatever_it_shows(each):
    noise = np.random.default_rng().integers(0, 256, (300, 500, 3)).astype(np.uint8)
    uri = Thumbnails(each=each, width=500).uri(noise)
    data = base64.b64decode(uri.partition(",")[2])
    assert len(data) <= each
    height, width, _ = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape
    assert width / height == pytest.approx(500 / 300, rel=0.05)
