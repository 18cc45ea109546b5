"""Runs damaged inputs in processes of their own, and says of each how it ended, how long it took and what memory it needed."""

import ctypes
import multiprocessing
import random
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

BUDGET = 512 << 20
"""Bytes that one input may take beyond what its process had before."""
PATIENCE = 60
"""Seconds for one input."""
_ADDRESS_SPACE = 4 << 30
_INPUTS_PER_PROCESS = 400


@dataclass(frozen=True, kw_only=True)
class End:
    """How an input ended.

    Attributes:
        fault: what was wrong; empty where nothing was.
        outcomes: one word per call: `read`, or the name of the error.
    """

    number: int
    kind: str
    fault: str = ""
    outcomes: tuple[str, ...] = ()
    seconds: float = 0.0
    peak: int = 0


@dataclass
class Report:
    """All inputs of one run."""

    seed: int
    seconds: float = 0.0
    ends: list[End] = field(default_factory=list)

    @property
    def faults(self):
        return [end for end in self.ends if end.fault]

    def lines(self):
        counts = Counter(end.kind for end in self.ends)
        for kind in sorted(counts):
            ends = [end for end in self.ends if end.kind == kind]
            outcomes = Counter(outcome for end in ends for outcome in end.outcomes)
            said = ", ".join(f"{count} {name}" for name, count in outcomes.most_common())
            peak = max(end.peak for end in ends) / 1e6
            yield f"{kind:10} {len(ends):5} inputs, at most {max(end.seconds for end in ends):4.1f} s and {peak:4.0f} MB; calls: {said}"
        rate = len(self.ends) / max(self.seconds, 1e-9)
        yield f"{len(self.ends)} inputs of seed {self.seed} in {self.seconds:.0f} s ({rate:.0f} a second), {len(self.faults)} faults"


def run(seed, numbers, *, workers=2, ended=lambda _end: None):
    """Runs inputs.

    Args:
        seed: of all random choices.
        numbers: of the inputs; an input depends on its number and the seed alone.
        workers: processes.
        ended: called with each end.
    """
    started = time.monotonic()
    report = Report(seed)
    with tempfile.TemporaryDirectory(prefix="rawnind-fuzz-") as folder:
        root = Path(folder)
        _sound(root / "sound")
        context = multiprocessing.get_context("spawn")
        shares = [list(numbers[share::workers]) for share in range(workers)]
        pools = [_Worker(context, root, number, seed, share) for number, share in enumerate(shares) if share]
        while pools:
            for worker in list(pools):
                for end in worker.collect():
                    report.ends.append(end)
                    ended(end)
                if worker.done:
                    worker.stop()
                    pools.remove(worker)
            time.sleep(0.01)
    report.seconds = time.monotonic() - started
    report.ends.sort(key=lambda end: end.number)
    return report


def _sound(folder):
    """Made in a process of its own: the first one needs seconds to load torch."""
    process = multiprocessing.get_context("spawn").Process(target=_make_sound, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == 0


def _make_sound(folder):
    from tests.fuzz.targets import TARGETS, make_sound_files

    make_sound_files(folder)
    for kind, target in TARGETS.items():  # what no call reads when it is sound is no input
        work = folder.with_name("work-sound") / "input"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(folder / target.part, work)
        ends = [_outcome(call, work) for call in target.calls]
        assert set(ends) == {"read"}, f"{kind} is not read though it is sound: {ends}"


class _Worker:
    """A process that runs inputs one after the other; it is replaced when it dies or takes too long."""

    def __init__(self, context, root, number, seed, share):
        self._context, self._root, self._number, self._seed = context, root, number, seed
        self._open = share
        self._running = None
        self._start()

    @property
    def done(self):
        return not self._open

    def _start(self):
        self._connection, other = self._context.Pipe()
        args = (other, self._root, self._number, self._seed, self._open[:_INPUTS_PER_PROCESS])
        self._process = self._context.Process(target=_child, args=args, daemon=True)
        self._process.start()
        other.close()
        self._left = len(args[-1])
        self._since = time.monotonic() + 60  # for its imports

    def collect(self):
        """The inputs that ended since the last call."""
        ends = []
        try:
            while self._connection.poll():
                message = self._connection.recv()
                self._since = time.monotonic()
                if isinstance(message, End):
                    ends.append(message)
                    self._open = self._open[1:]
                    self._left -= 1
                    self._running = None
                else:
                    self._running = message
        except EOFError:
            self._process.join()
        if not self._open:
            return ends
        if not self._left:
            self._process.join()
            self._start()
        elif not self._process.is_alive():
            ends.append(self._ended(-(self._process.exitcode or 0)))
            self._start()
        elif time.monotonic() - self._since > PATIENCE:
            self._process.kill()
            self._process.join()
            ends.append(self._ended(None))
            self._start()
        return ends

    def _ended(self, number):
        kind = self._running[1] if self._running else "start"
        died = (
            "took too long"
            if number is None
            else f"its process ended by {signal.Signals(number).name if number > 0 else number}"
        )
        if (
            kind == "raw" and number
        ):  # the run decodes such a file in a child process and fails it as worker_died
            end = End(number=self._open[0], kind=kind, outcomes=("worker_died",))
        else:
            end = End(number=self._open[0], kind=kind, fault=died)
        self._open = self._open[1:]
        self._running = None
        return end

    def stop(self):
        self._process.join()


def _child(connection, root, worker, seed, numbers):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    from tests.fuzz.targets import TARGETS

    work = root / f"work-{worker}"
    shutil.rmtree(work, ignore_errors=True)
    (work / "tmp").mkdir(parents=True)
    tempfile.tempdir = str(work / "tmp")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _ADDRESS_SPACE, resource.RLIM_INFINITY))
    kinds = sorted(TARGETS)
    for number in numbers:
        kind = kinds[number % len(kinds)]
        connection.send((number, kind))
        connection.send(_input(TARGETS[kind], kind, root / "sound", work / "input", seed, number))
    connection.close()


def _input(target, kind, sound, work, seed, number):
    chance = random.Random(f"{seed}-{number}")
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(sound / target.part, work)
    (work / "outside" / "bayer" / "cat").mkdir(parents=True)
    for name in ("precious", "bayer/cat/photo.dng", f"bayer/cat/{'0' * 12}-{'1' * 12}.parquet"):
        (work / "outside" / name).write_bytes(b"precious")
    target.damage(work, chance)
    before = _contents(work, target.writes)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak (proc_pid_clear_refs(5))
    start, started = _memory("VmHWM"), time.monotonic()
    outcomes, fault = [], ""
    for call in target.calls:
        try:
            outcomes.append(_outcome(call, work))
        except Exception:  # noqa: BLE001 - every other exception is what is looked for
            fault = traceback.format_exc()
            break
    peak = _memory("VmHWM") - start
    if not fault and peak > BUDGET:
        fault = f"took {peak / 1e6:.0f} MB"
    if not fault and (changed := before ^ _contents(work, target.writes)):
        fault = f"changed {sorted(name for name, *_ in changed)[:5]}"
    return End(
        number=number,
        kind=kind,
        fault=fault,
        outcomes=tuple(outcomes),
        seconds=time.monotonic() - started,
        peak=peak,
    )


def _outcome(call, work):
    from rawnind.errors import RawnindError

    try:
        call(work)
    except RawnindError as error:
        return type(error).__name__ if len(str(error)) < _PAGE else _raise_long(error)
    except FileNotFoundError as error:
        if "manifest.yaml" in str(error):  # `verify` and `read_summary` say so where there is no manifest
            return "FileNotFoundError"
        raise
    return "read"


_PAGE = 20_000
"""Characters that an error has at most."""


def _raise_long(error):
    raise AssertionError("the error is longer than a page") from error


def _contents(work, writes):
    """What must not change: every file but those that the calls may write."""
    found = set()
    for path in work.rglob("*"):
        if path.relative_to(work).parts[0] not in writes:
            status = path.lstat()
            found.add(
                (
                    str(path.relative_to(work)),
                    status.st_mode,
                    status.st_size,
                    status.st_mtime_ns if path.is_file() else 0,
                )
            )
    return found


def _memory(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) << 10


def main(arguments):
    """Runs what the command line asks for; the exit code."""

    def ended(end):
        if end.fault:
            repeat = f"--seed {arguments.seed} --first {end.number} --inputs 1"
            print(
                f"FAULT in input {end.number} ({end.kind}); repeat it with {repeat}\n{end.fault}", flush=True
            )

    numbers = range(arguments.first, arguments.first + arguments.inputs)
    report = run(arguments.seed, numbers, workers=arguments.workers, ended=ended)
    for line in report.lines():
        print(line, flush=True)
    return 1 if report.faults else 0
