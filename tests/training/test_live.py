import json
import time
from collections import Counter
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rawnind.cluster.bridge import Bridge, State
from rawnind.cluster.feed import from_bytes
from rawnind.errors import ConfigError
from rawnind.plan import Selection, make_plan
from rawnind.records import Cfa
from rawnind.storage.leases import LeaseLog, given_to
from rawnind.storage.parts import encode_result
from rawnind.storage.store import Store
from rawnind.training import FeedError, LiveCropDataset, replay
from rawnind.training.live_record import Who, ending, rest

BATCH = {"batch_size": 4, "crop_size": 32}


class Run:
    """A bridge whose scenes the test commits by hand; the folder's pixels are real."""

    def __init__(self, maker):
        self.results = {result.scene.key: result for result in maker.results}
        self.plan = make_plan([result.scene for result in maker.results], Selection(), maker.recipe)
        self.where = maker.store.location
        self.start()
        self.bridge.begin()

    def start(self):
        """Starts the bridge, anew if there was one."""
        self.bridge = Bridge(self.where, "run", self.plan, max_scenes=99)

    def commit(self, key):
        self.bridge.commit(key, encode_result(self.results[key]))

    def finish(self):
        for key in self.bridge.open_scenes():
            self.commit(key)
        self.bridge.finish({})

    def crops(self, *, test=False):
        return {
            f"{pair.pair_id}-{crop.y}-{crop.x}"
            for result in self.results.values()
            if result.scene.test_reserve == test
            for pair in result.pairs
            for crop in pair.crops
        }


class Consumer:
    """Asks as the data set does."""

    def __init__(self, name, token="t"):
        self.name, self.token, self.has, self.position = name, token, [], 0

    def join(self, run, position=None):
        self.position = run.bridge.join("f", self.name, self.token, position)
        del self.has[self.position :]

    def ask(self, run, count, done=0):
        given = run.bridge.take("f", self.name, self.token, self.position, count, done=done)
        rows = from_bytes(given.rows)
        assert rows["position"].to_pylist() == list(range(self.position, self.position + len(rows)))
        return given, rows["crop_id"].to_pylist()

    def take(self, run, count, done=0):
        given, crops = self.ask(run, count, done)
        self.has += crops
        self.position = given.position
        return crops


@pytest.fixture
def run(maker):
    for number in range(3):
        maker.scene(f"scene{number}", crops=5)
    maker.scene("secret", test=True, crops=4)
    return Run(maker)


def happenings():
    ask = st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(1, 4))
    return st.lists(
        st.one_of(ask, st.sampled_from(["commit", "restart", "lost", "rejoin"])), min_size=5, max_size=40
    )


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(events=happenings())
def test_every_crop_is_given_once_whatever_happens(tmp_path_factory, events):
    from tests.training.conftest import Maker

    maker = Maker(tmp_path_factory.mktemp("feed") / "out", size=32)
    for number in range(3):
        maker.scene(f"scene{number}", crops=4)
    run = Run(maker.scene("secret", test=True, crops=2))
    consumers = {name: Consumer(name) for name in "abc"}
    for consumer in consumers.values():
        consumer.join(run)
    for event in events:
        if event == "commit" and run.bridge.open_scenes():
            run.commit(run.bridge.open_scenes()[-1])
        elif event == "restart":
            run.start()
        elif event == "lost":  # the bridge answers, and the answer gets lost
            consumers["a"].ask(run, 3)
        elif event == "rejoin":
            consumers["b"].token += "t"
            consumers["b"].join(run, position=len(consumers["b"].has) // 2)
        elif isinstance(event, tuple):
            consumers[event[0]].take(run, event[1])
    run.finish()
    run.bridge.close()
    for consumer in consumers.values():
        while consumer.take(run, 5):
            pass
    counts = Counter(crop for consumer in consumers.values() for crop in consumer.has)
    assert set(counts.values()) == {1}
    assert counts.keys() == run.crops()
