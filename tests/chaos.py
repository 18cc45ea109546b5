"""Runs `rawnind prepare` many times while accidents happen to it; `make chaos` does it a hundred times.

Each run has its own output, in a folder or on an S3 server. What happens to it is drawn at random: processes are killed or
paused, the output is renamed, replaced by links, or without room, another run takes it over, and the store answers with
errors or not at all. Whenever the command ends early, its user puts things right and runs it again. In the end every output
must be, byte for byte, what an undisturbed run makes, with nothing left over and no file reported as failed that is sound;
the command must have ended with documented exit codes and printed nothing but sentences.

    python -m tests.chaos --runs 100 --seed 7
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from pyarrow import fs

from rawnind.output.events import read_events
from rawnind.output.manifest import read_summary
from rawnind.output.store import Store
from rawnind.output.verify import verify
from rawnind.reasons import Reason
from rawnind.sample import make_sample
from tests import s3_server
from tests.accidents import COMPLETE, STOPPED, USAGE, Victim, local_accidents, process_accidents
from tests.s3_faults import FaultyProxy
from tests.small_set import CROPS, SAMPLE_SIZE, SCENES, copy_small_set, digests, leftovers

EXPECTED = {Reason.SHA1_MISMATCH, Reason.TRUNCATED}
LARGE = 26
"""Noisy photos of one scene besides: it is processed in chunks."""

PATIENCE = 300
"""Seconds for one command."""

BUSY = ("Ray cannot start", "did not answer", "another run on this cluster", "is in use by")
"""Sentences of a machine or a folder that is busy: the user waits, and runs the command again."""


@dataclass
class Place:
    """Where one run writes.

    Attributes:
        words: the output as the command takes it.
        folder: the local folder; None on an object store.
        scratch: a folder beside it, for what accidents put aside.
        query: what the URI of the same store without a proxy ends with.
    """

    words: str
    folder: Path | None
    scratch: Path
    query: str = ""
    proxy: FaultyProxy | None = None
    sentences: list[str] = field(default_factory=list)


class Command:
    """The command on its way, with its text in files: nothing that it prints can block it."""

    def __init__(self, source, place, number):
        self.log = place.scratch / f"command-{number}"
        words = [sys.executable, "-m", "rawnind.cli", "prepare", str(source), "--output", place.words,
                 "--crop-size", str(CROPS["crop_size"]), "--stride", str(CROPS["stride"]), "--progress", "none", "--address", "local",
                 "--max-scenes", "64"]  # fmt: skip
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT)
        self.begun = time.monotonic()

    def code(self):
        if time.monotonic() - self.begun > PATIENCE:
            self.process.kill()
            raise AssertionError(f"not done after {PATIENCE} s: {self.text()[-2000:]}")
        return self.process.poll()

    def wait(self):
        while (code := self.code()) is None:
            time.sleep(0.05)
        return code

    def text(self):
        return self.log.read_text(errors="replace")


def require_sentences(code, text):
    """The command printed its summary, or one sentence of its own; nothing of Ray's or Python's."""
    lines = [line for line in text.splitlines() if line.strip()]
    if code == COMPLETE:
        foreign = [
            line
            for line in lines
            if "Traceback" in line or "core_worker" in line or line.startswith(("[", "(", "\x1b"))
        ]
        assert not foreign, f"printed {foreign[:5]}"
    elif code >= 0:
        assert len(lines) == 1, f"exit {code} with {text[:3000]}"
        assert lines[0].startswith("rawnind: "), text[:3000]


def run_through(source, place, accidents, chance):
    """Runs the command until it is complete, while the accidents happen one after the other; the names of those that did."""
    happened, waiting, number = [], list(accidents), 0
    command = Command(source, place, number)
    seen, delay, allowed = None, chance.uniform(0, 3), {COMPLETE, STOPPED}
    while True:
        code = command.code()
        if code is not None:
            text = command.text()
            busy = code == USAGE and any(sentence in text for sentence in BUSY)
            assert code in allowed or busy, f"exit {code} after {happened}: {text[-3000:]}"
            require_sentences(code, text)
            if code == COMPLETE:
                return happened
            place.sentences += text.splitlines()[:1]
            assert number < 30, f"not complete after {number} runs: {place.sentences[-3:]}"
            time.sleep(5 if busy else 0)
            number += 1
            command = Command(source, place, number)
            seen, allowed = None, {COMPLETE, STOPPED}
        victim = Victim(command.process, place.folder, place.scratch, chance)
        if waiting and victim.processes(waiting[0].needs):
            seen = seen or time.monotonic()
            if time.monotonic() - seen > delay:
                accident = waiting.pop(0)
                accident.happen(victim)
                happened.append(accident.name)
                allowed = allowed | accident.codes
                seen, delay = None, chance.uniform(0, 3)
                if accident.stops:
                    command.wait()
                    accident.put_right(victim)
        time.sleep(0.02)


def take_over(source, place, chance):
    """Stops a run's clock until its lease has expired, and lets another run finish its work before it goes on."""
    first = Command(source, place, "paused")
    victim = Victim(first.process, None, place.scratch, chance)
    while first.code() is None and not victim.processes("worker"):
        time.sleep(0.05)
    time.sleep(chance.uniform(0, 3))
    paused = victim.processes("command", "worker", "bridge", "raylet", "gcs")
    for process in paused:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    store = Store(place.words)
    for lease in store.list("locks"):
        store.remove(lease.path)  # as the next run does a minute later
    second = Command(source, place, "next").wait()
    for process in paused:
        with suppress(psutil.NoSuchProcess):
            process.resume()
    code = first.wait()
    require_sentences(code, first.text())
    assert second in {COMPLETE, STOPPED}, second
    assert code in {COMPLETE, STOPPED}, f"exit {code}: {first.text()[-2000:]}"
    return ["paused until another run had its lease"]


def check(output, expected, *, remote=False):
    """Compares a folder with what an undisturbed run makes."""
    store = Store(str(output))
    assert digests(output) == expected, "the bytes differ"
    assert list(verify(store)) == []
    left = leftovers(output)
    # On an object store events.jsonl is a folder, and pyarrow leaves an empty object in place of an emptied one.
    if remote:
        left = [path for path in left if path.name != "events" and (path.is_file() or any(path.iterdir()))]
    assert left == [], left
    assert {reason for reason, _ in read_summary(store).reasons} == EXPECTED
    commits = [line["scene"].rpartition("/")[2] for line in read_events(store) if line["event"] == "commit"]
    assert sorted(commits) == sorted([*SCENES, "large"]), commits


def mounted(stack, folder):
    """A disk of its own that may be filled, or None where only root may mount one."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=32m", "rawnind-chaos", str(folder)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(words, check=False).returncode:
        return None
    stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)
    return folder


def local_run(source, folder, disk, chance):
    """One run with a local output; its folder, and what happened."""
    place = Place(str((disk or folder) / "out"), (disk or folder) / "out", folder / "scratch")
    place.scratch.mkdir()
    several = local_accidents(chance, disk=disk is not None)
    chosen = chance.sample(several, k=chance.randint(1, 3))
    return place.folder, run_through(source, place, chosen, chance)


def remote_run(source, folder, port, chance):
    """One run on an object store in trouble; a copy of its output, and what happened."""
    name = f"{chance.getrandbits(64):x}"
    direct = f"s3://bucket/{name}?{s3_server.uri_query(port)}"
    (folder / "scratch").mkdir()
    with FaultyProxy(port, seed=chance.random(), share=chance.choice([0.01, 0.03, 0.1])) as proxy:
        happened = []
        if chance.random() < 0.3:
            place = Place(direct, None, folder / "scratch")
            happened += take_over(source, place, chance)
        place = Place(f"s3://bucket/{name}?{s3_server.uri_query(proxy.port)}", None, folder / "scratch")
        chosen = chance.sample(process_accidents(chance), k=chance.randint(0, 1))
        happened += run_through(source, place, chosen, chance)
        happened += [f"{count} x {kind}" for kind, count in sorted(proxy.happened.items())]
    system, root = fs.FileSystem.from_uri(direct)
    fs.copy_files(root, str(folder / "copy"), source_filesystem=system)
    return folder / "copy", happened


def undisturbed(source, folder):
    """Digests of what a run makes to which nothing happens."""
    (folder / "scratch").mkdir(parents=True)
    place = Place(str(folder / "out"), folder / "out", folder / "scratch")
    command = Command(source, place, 0)
    assert command.wait() == COMPLETE, command.text()
    require_sentences(COMPLETE, command.text())
    expected = digests(folder / "out")
    check(folder / "out", expected)
    return expected


def add_large_scene(source):
    """A scene of one ground truth and many noisy photos: those of the cat, with other bytes behind the end of each file."""
    for kind, count in (("GT_ISO100", 1), ("ISO1600", LARGE)):
        (photo,) = source.glob(f"*_cat_{kind}_*")
        for number in range(1, count + 1):
            data = photo.read_bytes() + bytes(number)
            sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()
            (source / f"Bayer_large_{kind}_sha1={sha1}.dng").write_bytes(data)


def chaos(folder, runs, seed, *, first=0):
    """Raises AssertionError when a run loses a scene, commits it twice, harms another file, or says what nobody can read."""
    make_sample(folder / "sample", **SAMPLE_SIZE)
    source = copy_small_set(folder / "sample", folder / "source")
    add_large_scene(source)
    total, sentences = Counter(), Counter()
    with ExitStack() as stack:
        expected = undisturbed(source, folder / "undisturbed")
        disk = mounted(stack, folder / "disk")
        port = stack.enter_context(s3_server.s3_server()) if s3_server.PROGRAM else None
        for number in range(first, first + runs):
            chance = random.Random(f"{seed}-{number}")
            run, begun = folder / f"run-{number}", time.monotonic()
            run.mkdir()
            remote = port is not None and chance.random() < 0.3
            try:
                output, happened = (
                    remote_run(source, run, port, chance) if remote else local_run(source, run, disk, chance)
                )
                check(output, expected, remote=remote)
            except AssertionError as error:
                kept = keep(run, disk)
                raise AssertionError(f"run {number} with seed {seed}, kept in {kept}: {error}") from error
            total.update(happened)
            sentences.update(run_sentences(run))
            print(f"run {number}: whole{' on S3' if remote else ''}; {', '.join(happened) or 'nothing happened'}; {time.monotonic() - begun:.0f} s", flush=True)  # fmt: skip
            shutil.rmtree(run)
            shutil.rmtree(output, ignore_errors=True)
    for each, count in (*total.most_common(), *sentences.most_common()):
        print(f"{count:5}  {each}")


def keep(run, disk):
    """Copies what a run left to a folder that stays."""
    kept = Path(tempfile.mkdtemp(prefix="rawnind-chaos-kept-"))
    for part in (run, disk):
        if part:
            shutil.copytree(part, kept / part.name, symlinks=True)
    return kept


def run_sentences(run):
    """What the commands of a run ended with, without names of folders."""
    for log in (run / "scratch").glob("command-*"):
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith("rawnind: "):
                yield line.replace(str(run), "...")[:160]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(10**6), help="new each time unless given"
    )
    parser.add_argument("--first", type=int, default=0, help="number of the first run, to repeat one")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the disk is unmounted in any case
    os.environ.update(s3_server.CREDENTIALS)
    with tempfile.TemporaryDirectory(prefix="rawnind-chaos-") as folder:
        chaos(Path(folder), arguments.runs, arguments.seed, first=arguments.first)


if __name__ == "__main__":
    main()
