"""What is damaged in an output folder, or was written there by another program, ends in an error of ours or is skipped."""

import hashlib
import io
import os
import re

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from rawnind.bridge.leases import LeasedCrop, LeaseEntry, LeaseLog, consumer_states, leased_crops
from rawnind.darktable.model_card import describe_data
from rawnind.errors import ConfigError, ManifestError, OutputError, RawnindError
from rawnind.exporters.research_yaml import export
from rawnind.feed import CropDataset
from rawnind.noise.samples import samples_of_output
from rawnind.output.attempts import Ledger, TimedOut
from rawnind.output.events import NAME, EventLog, read_events
from rawnind.output.journal.journal import Journal
from rawnind.output.journal.part_file import SCHEMA as PART
from rawnind.output.manifest import MANIFEST, MANIFEST_YAML, PAIRS
from rawnind.output.status import read_status
from rawnind.output.tables import SCHEMAS
from rawnind.output.verify import verify
from rawnind.output.white_levels import white_level_warnings
from rawnind.reasons import Reason
from rawnind.report.folder import read_folder
from rawnind.training.checkpoint import read_checkpoint
from tests.output.result_maker import edit_yaml, make_result, make_scene, seal


@pytest.fixture
def finished(maker):
    """A store with a manifest of two scenes."""
    maker.scene("attic", crops=2).scene("cat", crops=2).finish()
    return maker.store


@pytest.mark.parametrize(
    "change",
    [
        lambda whole: whole["files"].update({"../x": "0" * 64}),
        lambda whole: whole["files"].update({PAIRS: "../x"}),
        lambda whole: whole["files"].pop(PAIRS),
        lambda whole: whole.update(files=[MANIFEST, PAIRS]),
        lambda whole: whole.update(recipe="no"),
        lambda whole: whole["counts"].update(scenes=[[[]]]),
        lambda whole: whole.update(reasons={"tired": 1}),
        lambda whole: whole.update(reasons={1: 1}),
        lambda whole: whole.update(contents=None),
    ],
)
def test_a_damaged_head_of_the_manifest_ends_in_an_error_or_is_passed_over(finished, change):
    Journal(finished)
    before = list(verify(finished))
    edit_yaml(finished, change)
    try:
        assert list(verify(finished)) == before
    except ManifestError as error:
        assert str(error).startswith(f"{MANIFEST_YAML} in {finished.location} is damaged: ")  # noqa: PT017 - both ends are right


@pytest.mark.parametrize("place", [40, -40])
def test_a_byte_that_is_no_text_does_not_end_verify(finished, place):
    data = finished.read(MANIFEST_YAML)
    finished.write(MANIFEST_YAML, data[:place] + b"\xff" + data[place + 1 :], replace=True)
    try:
        problems = list(verify(finished))
    except ManifestError as error:
        problems = [str(error)]
    assert any("is not valid YAML: unacceptable character #x00ff" in problem for problem in problems)


FOREIGN = [
    b"[[[[[[1]]]]]]",
    b'{"a": ' * 5000,
    b"7",
    b"\xff\xfe",
    b"null",
    b'{"event": "commit", "time": "now", "run": 1}',
    b'{"event": "commit", "time": 1, "run": "r", "scene": ["x"]}',
    b'{"event": "commit", "time": 1, "run": "r", "scene": "x", "telemetry": {"attempts": [1]}}',
    b'{"event": "commit", "time": NaN, "run": "r"}',
    b'{"event": "begin", "time": 1e300, "run": "r", "next_seq": 0}',
    b'{"consumer": 7, "done": 0}',
    b'{"consumer": "c", "done": -1}',
    b'{"consumer": "c", "done": 18446744073709551616}',
    b'{"consumer": "c", "done": 0, "scenes": [["bayer/cat", 0]], "crops": [[1, "x"]]}',
    b'{"consumer": "c", "done": 0, "scenes": [["bayer/cat", 0]], "crops": [[-1, "x"]]}',
    b'{"consumer": "c", "done": 0, "scenes": {"a": 1}, "crops": 5}',
    b'{"consumer": "c", "done": ' + b"9" * 5000 + b"}",
]


def test_foreign_lines_of_the_logs_are_skipped(store):
    Journal(store).append([make_result(make_scene("cat"), faults=(Reason.TRUNCATED,))])
    log = EventLog(store, "run")
    log.add("state", **{"from": "initialized", "to": "collecting"})
    log.add("commit", seq=0, scene="bayer/cat", telemetry={"attempts": 3})
    lines = list(read_events(store))
    expected = list(read_status(store).lines())
    leases = LeaseLog(store, "feed")
    crop = LeasedCrop("bayer/cat", 0, "crop")
    leases.append([LeaseEntry(consumer="c", done=0), LeaseEntry(consumer="c", done=0, crops=(crop,))])
    for name in (NAME, "leases/feed.jsonl"):
        with store.local(name).open("ab") as file:
            file.write(b"\n".join(FOREIGN) + b"\n")
    assert list(read_events(store)) == lines
    assert list(read_status(store).lines()) == expected
    assert log.last("commit")["seq"] == 0
    assert list(leased_crops(leases)) == [crop]
    assert list(consumer_states(leases.entries())) == ["c"]


@pytest.mark.parametrize("mark", [b"", b"[]", b'{"stage": 1, "sha1": []}', b'{"stage": "mask"}', b"\xff"])
def test_a_damaged_mark_of_a_timeout_still_counts(store, mark):
    ledger = Ledger(store, "run", "bayer/cat")
    ledger.mark_timeout("mask", None)
    ledger.mark_timeout("align", "0" * 40)
    path = store.list("attempts")[0].path
    store.write(path, mark, replace=True)
    assert len(ledger.timeouts()) == 2
    assert TimedOut(stage="unknown", sha1=None) in ledger.timeouts()


def changed(store, name, change):
    """Changes a table and seals it, as a careful forger would."""
    sink = io.BytesIO()
    pq.write_table(change(pq.read_table(store.local(name))), sink)
    store.write(name, sink.getvalue(), replace=True)
    seal(store)


def _read_every_column(store):
    journal = Journal(store)
    journal.inputs()
    journal.read("bayer/cat")


def forge_part(store, name, values):
    """Writes one scene, replaces a column of its part, and gives the part the name that its bytes ask for."""
    Journal(store).append([make_result(make_scene("cat"))])
    path = store.local(store.list("parts")[0].path)
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(name), name, values), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    path.rename(path.with_name(f"0000000000-1-{digest}.parquet"))


@pytest.mark.parametrize("name", [field.name for field in PART if pa.types.is_string(field.type)])
def test_a_part_whose_text_is_not_utf8_is_damaged(store, name):
    forge_part(store, name, not_utf8(pa.array(["x"])))
    with pytest.raises(ManifestError, match=r"is damaged: .*Invalid UTF8 sequence"):
        Journal(store)


@pytest.mark.parametrize("name", PART.names)
def test_a_part_whose_columns_have_another_type_is_damaged(store, name):
    forge_part(store, name, pa.array([[1]]))
    with pytest.raises(ManifestError, match=f"is damaged: {name} has another type"):
        _read_every_column(store)


@pytest.mark.parametrize("name", [MANIFEST, "recipe.yaml", "leases/feed.jsonl", NAME])
def test_a_pipe_in_the_folder_is_not_waited_for(finished, tmp_path, name):
    Journal(finished).append([make_result(make_scene("cat"))])
    path = finished.local(name)
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert list(LeaseLog(finished, "feed").entries()) == []
    assert list(read_events(finished)) == []
    with pytest.raises(OutputError, match="is not a regular file"):
        finished.read(name)
    with pytest.raises(ConfigError, match="does not exist or is no file"):
        read_checkpoint(path, torch.device("cpu"))
    if name == MANIFEST:
        with pytest.raises(RawnindError):
            export(finished.location, tmp_path / "to")


def not_utf8(array):
    """The texts of an array, the last of which is not UTF-8; Arrow does not look."""
    data = [None if text is None else text.encode() for text in array.to_pylist()]
    return pa.array([*data[:-1], b"ab\x80c"], pa.binary()).view(pa.string())


TEXTS = [
    (name, field.name)
    for name, schema in SCHEMAS.items()
    for field in schema
    if pa.types.is_string(field.type)
]


@pytest.mark.parametrize(("name", "text"), TEXTS)
def test_a_text_that_is_not_utf8_is_damage(finished, name, text):
    changed(finished, name, lambda table: column(text, not_utf8(table[text]))(table))
    why = f"{name} in .* is damaged: .*Invalid UTF8 sequence"
    (problem,) = verify(finished)
    assert re.match(why, problem)
    with pytest.raises(ManifestError, match=why):
        read_folder(finished)


READERS = [
    (MANIFEST, lambda store: CropDataset(store.location, split="all", crop_size=64)),
    (MANIFEST, lambda store: export(store.location, f"{store.location}-export")),
    (MANIFEST, lambda store: describe_data(store.location)),
    (PAIRS, lambda store: CropDataset(store.location, split="val", crop_size=64)),
    (PAIRS, lambda store: list(samples_of_output(store))),
    (PAIRS, lambda store: list(white_level_warnings(store))),
]


@pytest.mark.parametrize(("name", "read"), READERS)
def test_a_camera_that_is_not_utf8_is_damage_to_every_reader(finished, name, read):
    changed(finished, name, lambda table: column("camera", not_utf8(table["camera"]))(table))
    with pytest.raises(ManifestError, match=f"{name} in .* is damaged: .*Invalid UTF8 sequence"):
        read(finished)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_column_whose_name_is_not_utf8_is_damage(finished, name):
    data = finished.read(name)
    finished.write(name, data.replace(b"camera", b"cam\x80ra"), replace=True)
    seal(finished)
    why = f"{name} in .* cannot be read: .*can't decode byte 0x80"
    (problem,) = verify(finished)
    assert re.match(why, problem)
    with pytest.raises(ManifestError, match=why):
        read_folder(finished)


def column(name, values):
    """A change that replaces a column, by one value for every row or by an array."""

    def change(table):
        kind = table.schema.field(name).type
        array = values if isinstance(values, pa.Array) else pa.array([values] * len(table), kind)
        return table.set_column(table.column_names.index(name), name, array)

    return change


CHANGES = [
    (MANIFEST, lambda table: table.drop_columns(["shard"]), "lacks the columns shard"),
    (MANIFEST, lambda table: table.set_column(table.column_names.index("y"), "y", pc.cast(table["y"], pa.string())), "lacks the columns y"),
    (MANIFEST, column("gain", None), "gain is null"),
    (MANIFEST, column("gain", float("nan")), "gain is not finite"),
    (MANIFEST, column("y", 2**30), "y is 1073741824, outside 0 to 65535"),
    (MANIFEST, column("x", -2), "x is -2, outside 0 to 65535"),
    (MANIFEST, column("size", 0), "size is 0, outside 32 to 65535"),
    (MANIFEST, column("row_group", -1), "row_group is -1"),
    (MANIFEST, column("valid_fraction", 7.0), "valid_fraction is 7.0"),
    (MANIFEST, column("cfa", "foveon"), "cfa is 'foveon'"),
    (MANIFEST, column("scene", "../\x1b[2J"), r"scene is '\.\./\\\\x1b\[2J'"),
    (MANIFEST, column("pair_id", "../../x"), r"pair_id is '\.\./\.\./x'"),
    (MANIFEST, column("shard", "/etc/passwd"), "shard is '/etc/passwd'"),
    (MANIFEST, column("shard", "shards/bayer/../x.parquet"), "shard is"),
    (MANIFEST, column("rgb_xyz_matrix", [1.0]), "rgb_xyz_matrix has 1 values"),
    (MANIFEST, column("black_level", [float("inf")] * 4), "black_level is not finite"),
    (MANIFEST, lambda table: table.drop_columns(["iso"]), "lacks the columns iso"),
    (PAIRS, lambda table: table.drop_columns(["reason", "gt_sha1"]), "lacks the columns gt_sha1"),
    (PAIRS, lambda table: table.drop_columns(["outcome"]), "lacks the columns outcome"),
    (PAIRS, column("noisy_sha1", "x"), "noisy_sha1 is 'x'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "why"), CHANGES)
def test_a_forged_table_is_refused_by_loader_and_export(finished, tmp_path, name, change, why):
    changed(finished, name, change)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ManifestError, match=why):
        CropDataset(finished.location, split="train", crop_size=64)
    if name == MANIFEST:
        with pytest.raises(ManifestError, match=why):
            export(finished.location, tmp_path / "to")
        assert {path.relative_to(tmp_path).parts[0] for path in {*tmp_path.rglob("*")} - {*before}} <= {"to"}
    assert all(problem.isprintable() for problem in verify(finished))


def test_a_colour_matrix_that_no_camera_has_is_refused(finished, tmp_path):
    changed(finished, MANIFEST, column("rgb_xyz_matrix", [0.0] * 9))
    with pytest.raises(ManifestError, match="a colour matrix must be invertible"):
        CropDataset(finished.location, split="all", crop_size=64)[0]
    with pytest.raises(ManifestError, match="a colour matrix must be invertible"):
        export(finished.location, tmp_path / "to")


@pytest.mark.parametrize("name", ["white_level", "gt_white_level"])
def test_a_white_level_that_is_not_above_black_is_refused(finished, tmp_path, name):
    changed(finished, MANIFEST, column(name, 0.0))
    with pytest.raises(ManifestError, match="white 0 is not above black 515"):
        CropDataset(finished.location, split="all", crop_size=64)[0]
    with pytest.raises(ManifestError, match="white 0 is not above black 515"):
        export(finished.location, tmp_path / "to")


def test_a_mask_that_no_photo_fills_is_not_made(finished, tmp_path):
    changed(finished, MANIFEST, lambda table: column("x", 60_000)(column("y", 60_000)(table)))
    with pytest.raises(ManifestError, match="has 60064 x 60064 sites"):
        export(finished.location, tmp_path / "to")


@pytest.mark.parametrize("name", [MANIFEST, PAIRS])
def test_a_file_that_is_not_the_sealed_one_is_not_opened(finished, tmp_path, name):
    data = finished.read(name)
    finished.write(name, data[:-30] + bytes([data[-30] ^ 1]) + data[-29:], replace=True)
    for read in (
        lambda: CropDataset(finished.location, crop_size=64),
        lambda: export(finished.location, tmp_path / "to"),
    ):
        with pytest.raises(
            ManifestError, match=rf"^{name} in .* is not the file that manifest\.yaml was written with"
        ):
            read()
    assert not (tmp_path / "to").exists()
    finished.remove(MANIFEST_YAML)
    with pytest.raises(ManifestError, match=r"lacks a file of the manifest"):
        CropDataset(finished.location, crop_size=64)
