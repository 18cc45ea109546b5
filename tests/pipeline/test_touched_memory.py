"""The memory that a stage touches: what it works on, also in a worker that keeps what it has freed, at little cost."""

import json
import subprocess
import sys

import pytest

from rawnind.output.events import read_events
from rawnind.output.store import Store

BEGIN = """
import json, resource, time
import numpy as np
from rawnind.pipeline.malloc import keep_freed_memory
from rawnind.pipeline.scene import Meter
from rawnind.pipeline.touched_memory import TouchedMemory

keep_freed_memory()
MB = 1 << 20

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / MB

def touched(work):
    meter = Meter(memory=TouchedMemory())
    with meter.stage("mask"):
        work()
    return meter.values["mask_memory_bytes"] / MB

"""


def in_new_process(code):
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_warm_worker_has_the_memory_of_a_stage_and_not_what_it_keeps():
    found = in_new_process("""
kept = np.ones(200 * MB, np.uint8)
larger = [np.ones(100 * MB, np.uint8) for _ in range(4)]
larger.clear()  # malloc keeps them
before = resident()
print(json.dumps({"before": before, "after": resident(),
    "nothing": touched(lambda: None),
    "one": touched(lambda: np.ones(64 * MB, np.uint8)),
    "two": touched(lambda: [np.ones(64 * MB, np.uint8), np.ones(64 * MB, np.uint8)]),
    "one_after_another": touched(lambda: [np.ones(64 * MB, np.uint8).sum() for _ in range(5)]),
    "read": touched(kept.sum)}))
""")
    assert found["before"] > 600
    libraries = found["nothing"]
    assert libraries < 20
    for name, expected in (("one", 64), ("two", 128), ("one_after_another", 64), ("read", 200)):
        assert found[name] == pytest.approx(expected + libraries, abs=16), name  # of huge pages all counts


def test_the_largest_photo_or_pair_of_a_stage_counts():
    found = in_new_process("""
meter = Meter(memory=TouchedMemory())
for size in (10, 90, 20):
    with meter.stage("decode"):
        np.ones(size * MB, np.uint8)
print(json.dumps(meter.done()))
""")
    assert 90 <= found["decode_memory_bytes"] / 2**20 < 130
    assert found["decode_memory_bytes"] < found["peak_memory_bytes"]


def test_measuring_takes_a_small_share_of_the_time_however_small_the_scenes():
    found = in_new_process("""
large = np.ones(8 * MB, np.uint8)
memory, measured, count = TouchedMemory(), [], 0
while len(measured) < 2:
    due = memory.is_due()
    began = time.process_time()
    meter = Meter(memory=memory if due else None)
    with meter.stage("mask"):
        large += 1
    count += 1
    measured += [time.process_time() - began] if due else []
print(json.dumps({"share": measured[0] / time.process_time(), "count": count}))
""")
    assert found["count"] > 100
    assert found["share"] < 0.003  # with the scenes themselves


def test_a_process_that_may_not_look_measures_nothing():
    """As in a sandbox without these files: here no file can be opened."""
    found = in_new_process("""
meter = Meter(memory=TouchedMemory())
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
with meter.stage("mask"):
    pass
print(json.dumps(meter.values))
""")
    assert list(found) == ["mask_seconds"]


def test_the_events_of_a_run_have_the_memory_of_its_stages(prepared):
    telemetry = [
        event["telemetry"] for event in read_events(Store(str(prepared))) if event["event"] == "commit"
    ]
    for stage in ("decode", "align", "mask", "write"):
        found = [each for each in telemetry if f"{stage}_memory_bytes" in each]
        assert found, stage
        for each in found:
            assert 0 < each[f"{stage}_memory_bytes"] < each["peak_memory_bytes"]
            assert f"{stage}_seconds" in each
