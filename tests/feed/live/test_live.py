import json
import time
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rawnind.bridge.bridge import Bridge
from rawnind.bridge.leases import LeaseLog, leased_crops
from rawnind.bridge.messages import from_bytes
from rawnind.errors import ConfigError
from rawnind.feed.live.history import Consumer, last_run_end, remaining_rows
from rawnind.output.events import NewestEvent
from rawnind.output.journal.journal import encode_result
from rawnind.output.store import Store
from rawnind.planning import SceneFilter, make_plan
from rawnind.training import FeedError, LiveCropDataset
from tests.feed.folder_maker import FolderMaker
from tests.output.result_maker import commit_one

BATCH = {"batch_size": 4, "crop_size": 32}


class Run:
    """A bridge whose scenes the test commits by hand; the folder's pixels are real."""

    def __init__(self, maker):
        self.results = {result.scene.key: result for result in maker.results}
        self.plan = make_plan([result.scene for result in maker.results], SceneFilter(), maker.recipe)
        self.where = maker.store.location
        self.start()
        self.bridge.begin()

    def start(self):
        """Starts the bridge, anew if there was one."""
        self.bridge = Bridge(self.where, "run", self.plan, max_scenes=99)

    def commit(self, key):
        commit_one(self.bridge, key, encode_result(self.results[key]))

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


class TakingConsumer:
    """A consumer that calls the bridge as `BridgeSource` does."""

    def __init__(self, name, process="t"):
        self.name, self.token, self.has, self.position = name, process, [], 0

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
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(events=happenings())
def test_every_crop_is_leased_once_under_any_sequence_of_events(tmp_path_factory, events):
    maker = FolderMaker(tmp_path_factory.mktemp("feed") / "out", size=32)
    for number in range(3):
        maker.scene(f"scene{number}", crops=4)
    run = Run(maker.scene("secret", test=True, crops=2))
    consumers = {name: TakingConsumer(name) for name in "abc"}
    for consumer in consumers.values():
        consumer.join(run)
    for event in events:
        _happen(event, run, consumers)
    run.finish()
    run.bridge.close()
    for consumer in consumers.values():
        while consumer.take(run, 5):
            pass
    counts = Counter(crop for consumer in consumers.values() for crop in consumer.has)
    assert set(counts.values()) == {1}
    assert counts.keys() == run.crops()


def _happen(event, run, consumers):
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


def test_a_consumer_replaced_by_another_process_of_its_name_gets_no_more_crops(run):
    first, second = TakingConsumer("a", "one"), TakingConsumer("a", "two")
    first.join(run)
    run.commit("bayer/scene0")
    assert first.take(run, 3)
    second.join(run)
    with pytest.raises(ConfigError, match="another process has joined as consumer a"):
        first.take(run, 3)
    assert second.take(run, 3) == first.has  # they were never said to be done with


def test_a_returning_consumer_gets_again_what_it_had_not_finished(run):
    consumer, again = TakingConsumer("a", "one"), TakingConsumer("a", "two")
    consumer.join(run)
    run.commit("bayer/scene0")
    consumer.take(run, 4)
    consumer.take(run, 1, done=2)
    run.start()
    again.join(run)
    assert again.position == 2
    assert again.take(run, 9) == consumer.has[2:]
    again.join(run, position=0)
    assert again.take(run, 9) == consumer.has
    with pytest.raises(ConfigError, match="was leased 5 crops, it cannot continue at position 6"):
        again.join(run, position=6)


def test_the_crops_of_several_scenes_are_mixed(run):
    consumer = TakingConsumer("a")
    consumer.join(run)
    for number in range(3):
        run.commit(f"bayer/scene{number}")
    scenes = [crop.key for crop in _leases(run, consumer)]
    assert scenes != sorted(scenes)
    assert Counter(scenes) == {f"bayer/scene{number}": 5 for number in range(3)}


def _leases(run, consumer):
    while consumer.take(run, 4):
        pass
    return list(leased_crops(LeaseLog(Store(run.where), "f")))


def test_a_photo_of_the_test_reserve_is_leased_to_no_consumer(maker):
    shared = "5" * 40
    maker.scene("open", crops=3, gt_sha1=shared).scene("other", crops=2)
    maker.scene("secret", crops=3, gt_sha1=shared, test=True)
    run, consumer = Run(maker), TakingConsumer("a")
    run.finish()
    consumer.join(run)
    while consumer.take(run, 4):
        pass
    (other,) = run.results["bayer/other"].pairs
    assert {crop.rsplit("-", 2)[0] for crop in consumer.has} == {other.pair_id}


def test_a_closing_bridge_divides_the_rest_and_records_the_shares(run):
    consumers = [TakingConsumer("a"), TakingConsumer("b")]
    for consumer in consumers:
        consumer.join(run)
    gone = TakingConsumer("c")
    gone.join(run)
    run.bridge.leave("f", "c", "t", 0)
    run.finish()
    consumers[0].take(run, 3, done=0)
    run.start()  # it has heard of no feed in this life
    run.bridge.close()
    store = Store(run.where)
    shares = [
        remaining_rows(store, Consumer(feed="f", name=name), position)
        for name, position in [("a", 3), ("b", 0)]
    ]
    assert [len(share) for share in shares] == [6, 6]
    assert shares[0]["position"].to_pylist() == list(range(3, 9))
    names = [name for share in shares for name in share["crop_id"].to_pylist()]
    assert len(set(names)) == 12
    assert {*names, *consumers[0].has} == run.crops()
    with pytest.raises(ConfigError, match=r"feed f of .* belongs to a, b, c"):
        remaining_rows(store, Consumer(feed="f", name="z"), None)


def test_without_recorded_shares_consumers_compute_disjoint_ones(run):
    consumers = [TakingConsumer("a"), TakingConsumer("b")]
    for consumer in consumers:
        consumer.join(run)
    run.finish()
    consumers[1].take(run, 4)
    shares = [
        remaining_rows(Store(run.where), Consumer(feed="f", name=c.name), c.position) for c in consumers
    ]
    names = [name for share in shares for name in share["crop_id"].to_pylist()] + consumers[1].has
    assert Counter(names) == Counter(run.crops())


def test_a_truncated_line_is_ignored(run):
    consumer = TakingConsumer("a")
    consumer.join(run)
    run.commit("bayer/scene0")
    consumer.take(run, 3)
    log = Store(run.where).local("leases/f.jsonl")
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"consumer":"a","done":0,"sce')
    run.start()
    consumer.take(run, 9)
    assert len(set(consumer.has)) == 5
    assert [crop.crop_id for crop in leased_crops(LeaseLog(Store(run.where), "f"), "a")] == consumer.has


@pytest.mark.parametrize("feed", ["", "../x", "a/b", ".hidden"])
def test_a_feed_that_would_leave_its_folder_is_refused(run, feed):
    with pytest.raises(ConfigError, match="a feed is named with letters"):
        run.bridge.join(feed, "a", "t")


def test_how_a_run_ended_is_in_its_events(run):
    state = NewestEvent(Store(run.where), "state")
    assert last_run_end(state) is None
    run.finish()
    assert last_run_end(state).finished
    run.bridge.close()
    assert last_run_end(state).finished
    other = Bridge(run.where, "other", run.plan, max_scenes=1)
    other.begin()
    assert last_run_end(state) is None
    other.fail("it burns")
    assert last_run_end(state).error == "it burns"


def crops_of(batches):
    return sum(len(batch["x_crops"]) for batch in batches)


def test_a_finished_folder_is_served_without_a_bridge_and_without_ray(folder):
    options = {"batch_size": 4, "crop_size": 32, "address": "127.0.0.1:1", "max_wait": 1}
    folder.store.write("events.jsonl", _READY, replace=True)
    parts = [
        LiveCropDataset(folder.store.location, feed="g", consumer=f"n{rank}", rank=rank, ranks=2, **options)
        for rank in range(2)
    ]
    assert sum(crops_of(part) for part in parts) == 30
    assert min(part.crops for part in parts) > 10
    assert not {"bayer/secret", "x-trans/tree"} & (parts[0].scenes | parts[1].scenes)


_READY = json.dumps({"time": 1, "run": "r", "event": "state", "from": "collecting", "to": "ready"}).encode()


def test_without_a_run_an_error_is_raised_in_time(tmp_path):
    live = LiveCropDataset(tmp_path / "nothing", address="127.0.0.1:1", max_wait=0.3, **BATCH)
    started = time.monotonic()
    with pytest.raises(
        FeedError, match=r"no new crop for 0\.3 s: no run of `rawnind prepare` is in progress for"
    ):
        next(iter(live))
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    "wrong",
    [{"split": "test"}, {"split": "val"}, {"batch_size": 0}, {"rank": 2}, {"max_wait": 0}, {"crop_size": 33}],
)
def test_a_wrong_option_is_refused(tmp_path, wrong):
    with pytest.raises(ConfigError):
        LiveCropDataset(tmp_path, **{**BATCH, **wrong})
