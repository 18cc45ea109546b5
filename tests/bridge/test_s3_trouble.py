"""Runs on an S3 server in trouble: each is run again until it is complete, and then has the bytes of one without trouble."""

import random
import uuid

import pytest

from rawnind import timing
from rawnind.bridge.bridge import Bridge
from rawnind.errors import FolderInUseError, OutputError, StoppedEarlyError
from rawnind.output.journal.journal import encode_result
from rawnind.output.lock import exclusive_run
from rawnind.output.store import Store
from rawnind.output.verify import verify
from rawnind.planning import SceneFilter, make_plan
from rawnind.reasons import Reason
from tests.output.result_maker import RECIPE, commit_one, make_result, make_scene
from tests.s3_faults import FaultyProxy

SCENES = {scene.key: scene for scene in (make_scene(f"s{number}") for number in range(4))}
PLAN = make_plan(list(SCENES.values()), SceneFilter(), RECIPE)
MOST_RUNS = 40


def run(uri):
    """What driver, bridge and workers do to the store in one run."""
    store = Store(uri)
    store.prepare_root()
    with exclusive_run(store, uuid.uuid4().hex) as lock:
        bridge = Bridge(uri, lock.run, PLAN, max_scenes=1, lock=lock)
        for key in bridge.begin():
            faults = [Reason.ALIGNMENT_LOSS] if key[-1] in "13" else []
            commit_one(bridge, key, encode_result(make_result(SCENES[key], store=store, faults=faults)))
        bridge.finish({})
        bridge.close()


def contents(store):
    """Bytes of what a run makes, without the journal and the log."""
    names = [entry.path for entry in store.list() if not entry.path.startswith(("parts/", "events"))]
    return {name: store.read(name) for name in names if name.endswith(".parquet")}


@pytest.fixture(scope="module")
def untroubled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("untroubled") / "out"
    run(str(folder))
    return contents(Store(str(folder)))


def run_until_complete(uri):
    """Runs again whenever the store has stopped a run; the sentences with which they stopped."""
    sentences = []
    while len(sentences) < MOST_RUNS:
        try:
            run(uri)
        except (OutputError, StoppedEarlyError, FolderInUseError) as error:
            sentences.append(str(error))
        else:
            return sentences
    raise AssertionError(f"not complete after {MOST_RUNS} runs: {sentences}")


def test_runs_on_a_store_in_trouble_end_with_a_sentence_and_in_the_same_bytes(s3, untroubled, monkeypatch):
    monkeypatch.setattr(
        timing, "LOCK_EXPIRY", 0.5
    )  # the next run need not wait for the lease of one that failed
    seed = random.SystemRandom().randrange(10**6)
    port = s3.partition("127.0.0.1:")[2].partition("&")[0]
    name = f"s3://bucket/{uuid.uuid4().hex}"
    with FaultyProxy(int(port), seed=seed, share=0.1) as proxy:
        sentences = run_until_complete(f"{name}?{s3.replace(port, str(proxy.port))}")
    print(f"seed {seed}, {1 + len(sentences)} runs: {dict(proxy.happened)}")
    assert not [sentence for sentence in sentences if "\n" in sentence]
    store = Store(f"{name}?{s3}")
    assert contents(store) == untroubled
    assert list(verify(store)) == []
