"""Runs `rawnind prepare` many times while its processes are killed at random; `make chaos` does it fifty times.

Each run has its own output folder. Its processes are killed by id, one after the other: a worker, the bridge, or the
command itself, which is then started again, as its user would. In the end every folder must be, byte for byte, what an
undisturbed run makes, with nothing left over and no file reported as failed that is sound.

    python -m tests.chaos --runs 50 --seed 0
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from rawnind.output.events import read_events
from rawnind.output.manifest import read_summary
from rawnind.output.store import Store
from rawnind.output.verify import verify
from rawnind.reasons import Reason
from rawnind.sample import make_sample
from tests.small_set import CROPS, SAMPLE_SIZE, SCENES, copy_small_set, digests, leftovers

EXPECTED = {Reason.SHA1_MISMATCH, Reason.TRUNCATED}
PATIENCE = 240
VICTIMS = {"worker": "ray::MapWorker(Map(SceneWorker))", "bridge": "ray::Bridge", "command": ""}


def command(source, output):
    words = [sys.executable, "-m", "rawnind.cli", "prepare", str(source), "--output", str(output),
             "--crop-size", str(CROPS["crop_size"]), "--stride", str(CROPS["stride"]), "--progress", "none", "--address", "local"]  # fmt: skip
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def victims(process, kind):
    """Processes of one run that may be killed, found below the command that was started here."""
    if kind == "command":
        return [psutil.Process(process.pid)]
    found = []
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if child.cmdline() and child.cmdline()[0].startswith(VICTIMS[kind]):
                    found.append(child)
    return found


def kill_plan(chance, kills):
    """(victim, seconds after it was first seen) of each kill to come."""
    kinds = chance.choices(list(VICTIMS), weights=[4, 4, 1], k=kills)
    return [(kind, chance.uniform(0, 10 if kind == "command" else 2.5)) for kind in kinds]


def run_and_kill(source, output, plan):
    """Runs to the end and kills as planned; what was killed."""
    killed, seen = [], None
    process, begun = command(source, output), time.monotonic()
    while True:
        code = process.poll()
        if code is not None:
            said = process.stderr.read()
            process.stderr.close()
            if code == 0:
                return killed
            busy = "timed out during startup" in said  # Ray, on a busy machine
            assert killed[-1:] == ["command"] or busy, f"exit {code} after {killed}: {said[-2000:]}"
            process, seen = command(source, output), None
        if time.monotonic() - begun > PATIENCE:
            process.kill()
            raise AssertionError(f"not done after {PATIENCE} s; killed {killed}")
        if plan and (found := victims(process, plan[0][0])):
            seen = seen or time.monotonic()
            if time.monotonic() - seen > plan[0][1]:
                with suppress(psutil.NoSuchProcess):
                    found[0].kill()
                    killed.append(plan[0][0])
                plan, seen = plan[1:], None
        time.sleep(0.02)


def check(output, expected):
    """Compares a folder with what an undisturbed run makes."""
    store = Store(str(output))
    assert digests(output) == expected, "the bytes differ"
    assert list(verify(store)) == []
    assert leftovers(output) == []
    assert {reason for reason, _ in read_summary(store).reasons} == EXPECTED
    seqs = [line["seq"] for line in read_events(store) if line["event"] == "commit"]
    assert sorted(seqs) == list(range(len(SCENES))), seqs


def chaos(folder, runs, seed, *, first=0, kills=4):
    """Raises AssertionError when a run loses a scene, commits it twice, or reports a sound file as failed."""
    make_sample(folder / "sample", **SAMPLE_SIZE)
    source = copy_small_set(folder / "sample", folder / "source")
    process = command(source, folder / "undisturbed")
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    expected = digests(folder / "undisturbed")
    check(folder / "undisturbed", expected)
    for number in range(first, first + runs):
        chance = random.Random(f"{seed}-{number}")
        output = folder / f"run-{number}"
        begun = time.monotonic()
        killed = run_and_kill(source, output, kill_plan(chance, chance.randint(1, kills)))
        check(output, expected)
        print(
            f"run {number}: whole, killed: {', '.join(killed) or 'nothing'}; {time.monotonic() - begun:.0f} s",
            flush=True,
        )
        shutil.rmtree(output)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first run, to repeat one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rawnind-chaos-") as folder:
        chaos(Path(folder), arguments.runs, arguments.seed, first=arguments.first)


if __name__ == "__main__":
    main()
