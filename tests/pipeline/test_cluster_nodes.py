"""What a run on a cluster says about its nodes and its workers."""

import pytest

from rawnind import timing
from rawnind.bridge.messages import SceneInFlight, Snapshot, State
from rawnind.capacity import Pool
from rawnind.options import Options
from rawnind.pipeline.cluster_nodes import ClusterState, Head, NodeState, NodeWatch
from rawnind.records import Counts

POOL = Pool(workers=8, memory=8e9, needed=1.2e9, reduced="")
WORKER = {"CPU": 1.0, "memory": 1.2e9}
BUSY = "No worker runs: it needs 1 CPU and 1.2 GB of memory on one node, and the most that one has free is 0 of 16 CPUs and 2.0 GB."
SCENE = SceneInFlight(key="bayer/a", stage="decode", started=0.0, last_heartbeat=0.0)


def node(number, *, free=0.0, leaves=False):
    return NodeState(name=f"10.0.0.{number}", total=16.0, free=free, memory=2e9, leaves=leaves)


def cluster_of(*numbers, demands=(), **values):
    return ClusterState(
        nodes={bytes([number]): node(number, **values) for number in numbers}, demands=tuple(demands)
    )


def snapshot(*in_flight, still_open=3):
    counts = Counts(planned=3, collected=3 - still_open, filtered=0, rejected=0, failed=0)
    return Snapshot(
        state=State.COLLECTING, next_seq=0, scenes=counts, pairs=counts, crops=0, in_flight=in_flight, peak_in_flight=0
    )  # fmt: skip


@pytest.fixture
def said(monkeypatch):
    """The sentences about a sequence of states, each with a snapshot."""
    for name in ("NODE_CHECK", "WORKER_WAIT"):
        monkeypatch.setattr(timing, name, 0.0)

    def said(*states):
        answers = iter(state for state, _ in states)
        watch = NodeWatch(Options(), POOL, lambda: next(answers))
        return [sentence for _, seen in states for sentence in watch.sentences(seen)]

    return said


def test_nodes_that_join_and_leave_are_named_up_to_three_and_a_drained_one_is_told_once(said):
    drained = ClusterState(nodes={b"\1": node(1), b"\2": node(2, leaves=True)}, demands=())
    states = [cluster_of(1), cluster_of(1, 2), drained, drained, cluster_of(1), cluster_of(*range(1, 9))]
    assert said(*((state, snapshot(SCENE)) for state in states)) == [
        "Node 10.0.0.2 joined the cluster, which has 32 CPUs now.",
        "Node 10.0.0.2 will leave the cluster soon and gets no more scenes.",
        "Node 10.0.0.2 left the cluster; other workers process its scenes. 1 with CPUs is left.",
        "7 nodes joined the cluster, which has 128 CPUs now.",
    ]


def test_a_run_says_once_what_its_workers_wait_for_and_when_they_run_again(said):
    busy = cluster_of(1, 2, demands=[{"CPU": 4.0}, WORKER])
    states = [(busy, snapshot()), (busy, snapshot()), (busy, snapshot(SCENE)), (busy, snapshot(still_open=0))]
    assert said(*states) == [
        f"{BUSY} The run waits.",
        "Workers run again.",
    ]
    assert said((cluster_of(demands=[WORKER]), snapshot())) == [
        "No worker runs: it needs 1 CPU and 1.2 GB of memory on one node, and no node has CPUs. The run waits."
    ]


def test_workers_that_start_or_a_head_that_does_not_answer_are_no_reason_to_say_anything(said):
    assert said((cluster_of(1, demands=[{"CPU": 4.0}]), snapshot()), (None, snapshot())) == []


def test_the_head_of_a_cluster_says_what_its_nodes_have(cluster):
    (found,) = Head()().nodes.values()
    assert (found.total, found.leaves) == (2.0, False)
    assert found.free <= 2.0
    assert found.memory > 0


def test_four_workers_that_take_every_cpu_do_not_wait_for_each_other(prepare, tmp_path, is_whole):
    """Ray Data's own actors need a place too (ray#44687); other tests have pools of one and two on two CPUs."""
    prepare(cpus_per_scene=0.5, max_scenes=9)
    assert is_whole(tmp_path / "out")
