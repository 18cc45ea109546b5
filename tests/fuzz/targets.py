"""What is damaged, and what then reads it. A target ends well where each call returns or raises an error of ours."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch
import yaml

from rawnind.bridge.leases import LeasedCrop, LeaseEntry, LeaseLog, consumer_states
from rawnind.chunks import Chunk
from rawnind.errors import RawnindError
from rawnind.exporters.check import check
from rawnind.exporters.research_yaml import export
from rawnind.feed import CropDataset, CropLoader
from rawnind.feed.live.history import Consumer, assigned_rows, last_run_end, remaining_rows
from rawnind.memory import PROCESS_BYTES
from rawnind.options import Options, load_config
from rawnind.output.attempts import Ledger
from rawnind.output.cleanup import remove_leftovers
from rawnind.output.events import NAME, CommitLog, EventLog, NewestEvent
from rawnind.output.finished_chunks import FinishedChunk, FinishedChunks
from rawnind.output.journal.journal import Journal, commit_of
from rawnind.output.manifest import MANIFEST, MANIFEST_YAML, PAIRS, write_manifest
from rawnind.output.shards import write_shard
from rawnind.output.status import read_status
from rawnind.output.store import Store
from rawnind.output.verify import verify
from rawnind.output.versions import VERSIONS
from rawnind.pipeline.run import _claim
from rawnind.reasons import Reason
from rawnind.recipe import Compression
from rawnind.records import Cfa, ImageRef
from rawnind.source.decode import decode, headers
from rawnind.source.index import INDEX_NAME, index_to_yaml, load_index
from rawnind.source.parquet_index import write_parquet_index
from rawnind.training.checkpoint import load_network
from rawnind.training.loop import train
from rawnind.training.options import TrainOptions
from rawnind.training.trainer import Trainer
from tests.fuzz.mutations import damaged, damaged_table, damaged_tag, disturb, resealed_part, table_bytes
from tests.output.result_maker import RECIPE, make_pixels, make_result, make_scene, seal

PHOTOS = Path(__file__).parents[1] / "golden" / "source"
PHOTO_MEMORY = int(PROCESS_BYTES) + (300 << 20)
"""Bytes that a worker has with a photo; a header that claims more pixels is unreadable."""
TRAINING = {"crop_size": 32, "batch_size": 2, "funit": 4}
FAULTS = (Reason.TRUNCATED, Reason.ALIGNMENT_LOSS)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A kind of input.

    Attributes:
        part: folder of the sound files that is copied for each input.
        damage: changes the copy, which is a folder beside `outside`; called with the folder and a random generator.
        calls: read it, each called with the folder that holds the copy.
        writes: names of the folders that the calls may change.
    """

    part: str
    damage: Callable
    calls: tuple[Callable, ...]
    writes: frozenset[str] = frozenset()


def make_sound_files(folder):
    """Sound files of every kind, one folder for each `Target.part`."""
    source = folder / "source" / "source"
    shutil.copytree(PHOTOS, source)
    index = load_index(source)
    (source / INDEX_NAME).write_text(index_to_yaml(index))
    with (source / "index.parquet").open("wb") as file:
        write_parquet_index(file, index, source)
    config = folder / "config" / "config"
    config.mkdir(parents=True)
    values = {
        **RECIPE.as_dict(),
        "max_scenes": 4,
        "timeout": 60,
        "cfa": "bayer",
        "retry_failed": ["timeout"],
        "strict": True,
    }
    (config / "config.yaml").write_text(yaml.safe_dump(values))
    _make_output(Store(str(folder / "out" / "out")))
    _make_export(folder / "out", folder / "export")
    where = folder / "checkpoint" / "checkpoint"
    train(
        str(folder / "out" / "out"),
        steps=1,
        checkpoint=where / "checkpoint.pt",
        progress=lambda *_: None,
        **TRAINING,
    )
    shutil.copytree(folder / "out" / "out", folder / "checkpoint" / "out")


def _make_output(store):
    store.prepare_root()
    results = [
        make_result(make_scene("attic", Cfa.X_TRANS, noisy=1), store=store, seed=2),
        make_result(make_scene("cat", noisy=2), store=store, seed=1),
        make_result(make_scene("kitchen", noisy=3), store=store, faults=FAULTS, seed=3),
        make_result(make_scene("no truth", truths=0)),
    ]
    first = results[1].pairs[0]
    (store.local(first.shard.path)).unlink()
    pixels = make_pixels(first.pair_id, first.crops)
    shard = write_shard(store, first.shard.path, pixels, RECIPE.crop_size, compression=Compression.ZSTD)
    object.__setattr__(first, "shard", shard)  # before anyone has read it
    store.write("recipe.yaml", yaml.safe_dump({"format": VERSIONS["recipe"], **RECIPE.as_dict()}).encode())
    journal, events = Journal(store), EventLog(store, "run")
    log = CommitLog(events, journal)
    events.add("begin", format=VERSIONS["events"], next_seq=0)
    events.add("state", **{"from": "initialized", "to": "collecting"})
    for result in results:
        (commit,) = journal.append([result])
        log.add([(result, commit, {"attempts": 1})], in_flight=1)
    events.add("state", **{"from": "collecting", "to": "ready"})
    write_manifest(
        store,
        sorted(results, key=lambda each: (each.scene.name, each.scene.cfa)),
        RECIPE,
        versions={},
        contents="",
    )
    crops = [
        LeasedCrop("bayer/cat", 1, row["crop_id"]) for row in pq.read_table(store.local(MANIFEST)).to_pylist()
    ]
    leases = LeaseLog(store, "feed")
    for done, consumer in enumerate("aba"):
        leases.append([LeaseEntry(consumer=consumer, done=done, crops=tuple(crops[2 * done : 2 * done + 2]))])
    ledger = Ledger(store, "run", "bayer/cat")
    ledger.begin()
    ledger.mark_timeout("mask", "0" * 40)
    chunk = Chunk(scene=make_scene("large", noisy=4), count=2)
    finished = FinishedChunk(result=make_result(chunk.part), seen=(("0" * 40, 1, 2),), code="", photos=4, telemetry={"attempts": 1})  # fmt: skip
    FinishedChunks(store, "run", chunk.scene.key, 2).add(0, finished)
    assert list(verify(store)) == []
    assert commit_of(results[0], 0).crops


def _make_export(made, folder):
    """An export at a path that is replaced when the copy is made: exports name their files by absolute paths."""
    export(made / "out", folder / "export")


def _store(work):
    return Store(str(work / "out"))


def _damage_one(*patterns):
    """Damages the bytes of one file."""

    def damage(work, chance):
        files = sorted(path for pattern in patterns for path in work.glob(pattern) if path.is_file())
        path = chance.choice(files)
        path.write_bytes(damaged(path.read_bytes(), chance))

    return damage


def _reseal_chunk(work, chance):
    """Damages a finished chunk and puts the digest of the damaged one into its name."""
    (path,) = work.glob("out/attempts/chunks/*/*")
    data = damaged(path.read_bytes(), chance)
    path.unlink()
    digest = hashlib.sha256(data).hexdigest()[:16]
    path.with_name(f"{path.name.rpartition('-')[0]}-{digest}").write_bytes(data)


def _either(*damages):
    def damage(work, chance):
        chance.choice(damages)(work, chance)

    return damage


def _disturb(part):
    def damage(work, chance):
        disturb(work / part, chance, work / "outside")

    return damage


def _damage_table(work, chance):
    store, name = _store(work), chance.choice([MANIFEST, PAIRS])
    table = damaged_table(pq.read_table(store.local(name)), chance)
    store.write(name, table_bytes(table), replace=True)
    seal(store)


def _damage_index_table(work, chance):
    path = work / "source" / "index.parquet"
    path.write_bytes(table_bytes(damaged_table(pq.read_table(path), chance)))


def _reseal_part(work, chance):
    resealed_part(chance.choice(sorted((work / "out" / "parts").iterdir())), chance)


def _foreign_checkpoint(work, chance):
    """A checkpoint with one entry replaced."""
    path = work / "checkpoint" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    place = chance.choice(
        [
            state,
            state["optimizer"],
            state["feed"],
            state["network"],
            state["options"],
            state["model"],
            state["average"],
        ]
    )
    key = chance.choice(sorted(place))
    values = [None, [], {}, "x", -1, 2**70, torch.zeros(0), torch.zeros(3, 3), float("nan"), {"a": 1}, [None]]
    place[key] = chance.choice(values)
    torch.save(state, path)


def _decode(work):
    for path in sorted((work / "source").glob("*.dng")):
        digest = hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
        ref = ImageRef(cfa=Cfa.BAYER, scene="cat", ground_truth=False, iso=100, sha1=digest, filename=path.name, path=str(path))  # fmt: skip
        _ours(lambda ref=ref: headers(ref, delay=0))
        decode(ref, delay=0, memory=PHOTO_MEMORY)


def _ours(call):
    """Errors of ours are an end like any other."""
    try:
        call()
    except RawnindError:
        return


def _one_photo(work, chance):
    keep = chance.choice(sorted((work / "source").glob("*.dng")))
    for path in (work / "source").iterdir():
        if path != keep:
            path.unlink()
    keep.write_bytes(chance.choice([damaged, damaged_tag])(keep.read_bytes(), chance))


def _samples(work, **options):
    crops = CropDataset(work / "out", split="all", input="rgb", crop_size=32, **options)
    for number in range(min(len(crops), 12)):
        _ours(lambda number=number: crops[number])


def _journal(work):
    journal = Journal(_store(work))
    for key in journal.latest:
        _ours(lambda key=key: journal.read(key))
    list(journal.since(0))
    journal.inputs()


def _history(work):
    store = _store(work)
    states = consumer_states(LeaseLog(store, "feed").entries())
    for name in [*states, "b"][:3]:
        _ours(lambda name=name: remaining_rows(store, Consumer(feed="feed", name=name), None))
    assigned_rows(store, Consumer(feed="feed", name=""), sequence=None, every_consumer=True)


def _events(work):
    store = _store(work)
    last_run_end(NewestEvent(store, "state"))
    log = EventLog(store, "run")
    for event in ("begin", "state", "commit"):
        log.last(event, any_run=True)
    CommitLog(log, Journal(store)).recover()


def _load_checkpoint(work):
    loader = CropLoader(CropDataset(work / "out", crop_size=TRAINING["crop_size"]), TRAINING["batch_size"])
    training = Trainer(loader, TrainOptions(funit=TRAINING["funit"]))
    training.load(work / "checkpoint" / "checkpoint.pt")
    training.advance()


def _load_network(work):
    load_network(work / "checkpoint" / "checkpoint.pt")


def _clean(work):
    store = _store(work)
    remove_leftovers(store, Journal(store))


def _append(work):
    """What a run writes in place."""
    store = _store(work)
    _ours(lambda: EventLog(store, "run2").add("begin", next_seq=0))
    _ours(lambda: LeaseLog(store, "feed").append([LeaseEntry(consumer="a", done=0)]))
    _ours(lambda: Ledger(store, "run2", "bayer/cat").begin())
    _ours(lambda: Journal(store).append([make_result(make_scene("zoo"))]))


def _moved_export(work, chance):
    """Lets the export name its copy, then damages it."""
    folder = work / "export"
    mark = json.loads((folder / "rawnind-export.json").read_bytes())
    assert mark["complete"]
    for name in ("dataset.yaml", "clean.yaml"):
        text = (folder / name).read_text()
        before = yaml.safe_load(text)
        start = before[0]["crops"][0]["gt_bayer_fpath"].partition("/crops/")[0] if before else str(folder)
        (folder / name).write_text(text.replace(start, str(folder)))
    chance.choice(
        [
            _damage_one("export/*.yaml", "export/*.json"),
            _damage_one("export/masks/**/*", "export/crops/**/*"),
            _disturb("export"),
        ]
    )(work, chance)


_OUT = frozenset({"out"})
_STATUS = lambda work: list(read_status(_store(work)).lines())  # noqa: E731
_VERIFY = lambda work: list(verify(_store(work)))  # noqa: E731
_EXPORT = lambda work: export(work / "out", work / "to")  # noqa: E731
_SAMPLES = (_samples, lambda work: _samples(work, verify="sha256"))

TARGETS = {
    "raw": Target(part="source", damage=_one_photo, calls=(_decode,)),
    "parquet index": Target(part="source", damage=_either(_damage_one("source/index.parquet"), _damage_index_table, _damage_index_table), calls=(lambda work: index_to_yaml(load_index(work / "source" / "index.parquet")),)),
    "index": Target(part="source", damage=_damage_one("source/dataset_index.yaml"), calls=(lambda work: index_to_yaml(load_index(work / "source")),)),
    "config": Target(part="config", damage=_damage_one("config/config.yaml"), calls=(lambda work: Options.from_dict(load_config(work / "config" / "config.yaml")),)),
    "recipe": Target(part="out", damage=_damage_one("out/recipe.yaml"), calls=(lambda work: _claim(_store(work), RECIPE),), writes=_OUT),
    "journal": Target(part="out", damage=_either(_damage_one("out/parts/*"), _reseal_part), calls=(_journal, _STATUS, _VERIFY, _clean), writes=_OUT),
    "manifest": Target(part="out", damage=_damage_one("out/manifest.yaml"), calls=(_STATUS, _VERIFY, _samples)),
    "tables": Target(part="out", damage=_either(_damage_one(f"out/{MANIFEST}", f"out/{PAIRS}"), _damage_table, _damage_table), calls=(_VERIFY, _samples, _EXPORT, _history), writes=frozenset({"to"})),
    "pairs": Target(part="out", damage=_damage_one(f"out/{PAIRS}"), calls=(_VERIFY, _samples, _history)),
    "shards": Target(part="out", damage=_damage_one("out/shards/*/*/*"), calls=(_VERIFY, *_SAMPLES, _EXPORT), writes=frozenset({"to"})),
    "events": Target(part="out", damage=_damage_one(f"out/{NAME}"), calls=(_STATUS, _events), writes=_OUT),
    "leases": Target(part="out", damage=_damage_one("out/leases/*"), calls=(_history,)),
    "attempts": Target(part="out", damage=_either(_damage_one("out/attempts/*/*/*/*"), _disturb("out/attempts")), calls=(lambda work: Ledger(_store(work), "run", "bayer/cat").timeouts(), _clean), writes=_OUT),
    "chunks": Target(part="out", damage=_either(_damage_one("out/attempts/chunks/*/*"), _reseal_chunk, _disturb("out/attempts/chunks")), calls=(lambda work: list(FinishedChunks(_store(work), "next", "bayer/large", 2).of_earlier_runs(0)), _STATUS, _clean), writes=_OUT),
    "checkpoint": Target(part="checkpoint", damage=_either(_damage_one("checkpoint/*"), _foreign_checkpoint), calls=(_load_checkpoint, _load_network)),
    "export": Target(part="export", damage=_moved_export, calls=(lambda work: check(work / "export"),)),
    "folder": Target(part="out", damage=_disturb("out"), calls=(_STATUS, _VERIFY, _samples, _history, _events, _append, _clean, _EXPORT), writes=frozenset({"out", "to"})),
}  # fmt: skip
assert MANIFEST_YAML == "manifest.yaml"
