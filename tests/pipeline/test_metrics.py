"""What Ray's metrics port shows is what the manifest says."""

import json
import os
import re
import signal
import time
import urllib.request
from collections import Counter

import pyarrow.parquet as pq
import ray
from ray.util.state import list_actors

from rawnind.bridge.messages import Submission
from rawnind.options import Options
from rawnind.outcomes import whole_scene_result
from rawnind.output.events import read_events
from rawnind.output.journal.journal import encode_result
from rawnind.output.manifest import read_summary
from rawnind.output.store import Store
from rawnind.pipeline.graph import bridge_name, start_bridge
from rawnind.pipeline.job import Job
from rawnind.planning import SceneFilter, make_plan
from rawnind.reasons import Outcome, Reason
from rawnind.recipe import Recipe
from rawnind.source.index import load_index
from tests.polling import poll
from tests.test_docs import ROOT

SAMPLE = re.compile(r"^ray_(rawnind_\w+)\{(.*)\} ([\d.e+-]+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')


def scraped(bridge, until, timeout=30):
    """Series of one bridge, (name, {label: value}, number), once `until` of them is true."""
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    end = time.monotonic() + timeout
    while True:
        with urllib.request.urlopen(url) as answer:
            text = answer.read().decode()
        found = [
            (name, dict(LABEL.findall(labels)), float(value)) for name, labels, value in SAMPLE.findall(text)
        ]
        found = [each for each in found if each[1].get("bridge") == bridge]
        if until(found) or time.monotonic() > end:
            return found
        time.sleep(0.2)


def total(series, name, **labels):
    """The largest value of each set of labels, summed: a bridge that was started anew goes on where it was."""
    best = Counter()
    for each, tags, value in series:
        if each == name and labels.items() <= tags.items():
            key = tuple(tags.get(label) for label in ("outcome", "cfa", "reason", "stage"))
            best[key] = max(best[key], value)
    return sum(best.values())


def test_the_port_shows_what_the_manifest_says(prepared):
    store = Store(str(prepared))
    summary = read_summary(store)
    series = scraped(
        bridge_name(str(prepared)),
        lambda found: total(found, "rawnind_scenes_total") == summary.scenes.planned,
    )
    for outcome in Outcome:
        assert total(series, "rawnind_scenes_total", outcome=outcome) == getattr(summary.scenes, outcome)
        assert total(series, "rawnind_pairs_total", outcome=outcome) == getattr(summary.pairs, outcome)
    for reason, count in summary.reasons:
        assert total(series, "rawnind_pairs_total", reason=reason) == count
    scenes = pq.read_table(prepared / "pairs.parquet", columns=["scene", "cfa", "outcome"]).to_pylist()
    collected = {(row["scene"], row["cfa"]) for row in scenes if row["outcome"] == "collected"}
    for cfa in ("bayer", "x-trans"):
        expected = sum(each == cfa for _, each in collected)
        assert total(series, "rawnind_scenes_total", outcome="collected", cfa=cfa) == expected


def test_bytes_and_seconds_are_those_of_the_events(prepared):
    series = scraped(
        bridge_name(str(prepared)), lambda found: total(found, "rawnind_bytes_written_total") > 0
    )
    telemetry = [
        event["telemetry"] for event in read_events(Store(str(prepared))) if event["event"] == "commit"
    ]
    for name in ("read", "written"):
        expected = sum(each.get(f"{name}_bytes", 0) for each in telemetry)
        assert total(series, f"rawnind_bytes_{name}_total") == expected > 0
    for stage in ("decode", "align", "mask", "write"):
        seconds = [each[f"{stage}_seconds"] for each in telemetry if f"{stage}_seconds" in each]
        assert total(series, "rawnind_stage_seconds_count", stage=stage) == len(seconds) > 0


def test_counts_survive_a_restart_of_the_bridge_and_gauges_show_the_current_state(
    cluster, prepared, sample_set, tmp_path
):
    plan = make_plan(load_index(sample_set).scenes, SceneFilter(limit=3), Recipe())
    output = str(tmp_path)
    bridge = start_bridge(Job(output=output, run="run", root="", plan=plan, options=Options()), max_scenes=2)
    try:
        ray.get(bridge.begin.remote())
        first, second, third = plan.selected
        commit(bridge, plan, first)
        (actor,) = list_actors(
            address=cluster, filters=[("name", "=", bridge_name(output)), ("state", "=", "ALIVE")]
        )
        assert actor.class_name == "BridgeActor"
        os.kill(actor.pid, signal.SIGKILL)
        commit(bridge, plan, second)
        ray.get(bridge.heartbeat.remote(third.key, "decode"))
        ray.get(bridge.loader_report.remote("rank-0", scenes=1, crops=12, batches=3, wait_seconds=0.5))
        ray.get(bridge.loader_report.remote("rank-0", scenes=2, crops=24, batches=5, wait_seconds=1.5))
        reported = ray.get(bridge.snapshot.remote()).now
        poll(lambda: ray.get(bridge.snapshot.remote()).now > reported + 1)  # gauges are written once a second
    finally:
        ray.kill(bridge)  # it exports what it counted
    series = scraped(
        bridge_name(output),
        lambda found: (
            total(found, "rawnind_in_flight_scenes") == 1
            and total(found, "rawnind_oldest_in_flight_seconds") > 0
        ),
    )
    assert total(series, "rawnind_scenes_total", outcome="failed") == 2
    assert total(series, "rawnind_pairs_total", reason="timeout") == len(first.noisy) + len(second.noisy)
    assert total(series, "rawnind_scenes_total", outcome="filtered") == len(plan.left_out)
    assert total(series, "rawnind_in_flight_scenes") == 1
    assert total(series, "rawnind_loader_batches_total") == 5
    assert total(series, "rawnind_loader_wait_seconds") == 1.5
    shown = {name for name, _, _ in series}
    shown |= {
        name
        for name, _, _ in scraped(
            bridge_name(str(prepared)), lambda found: total(found, "rawnind_bytes_written_total") > 0
        )
    }
    board = json.loads((ROOT / "deploy/grafana.json").read_text())
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"ray_(rawnind_\w+)", target["expr"])
    }
    assert asked <= shown
    (oldest,) = [value for name, _, value in series if name == "rawnind_oldest_in_flight_seconds"]
    assert oldest > 0


def commit(bridge, plan, scene):
    result = encode_result(whole_scene_result(scene, plan.recipe, Reason.TIMEOUT))
    ray.get(bridge.submit.remote([Submission(key=scene.key, data=result)]))
