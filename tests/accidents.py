"""Accidents that happen to a run of `rawnind prepare`: what they do to it, and how its user puts things right again."""

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psutil

NAMES = {
    "worker": "ray::MapWorker(Map",
    "bridge": "ray::Bridge",
    "raylet": "raylet",
    "gcs": "gcs_server",
}
"""Beginnings of the names of a run's processes."""

COMPLETE, USAGE, STOPPED = 0, 2, 3


@dataclass
class Victim:
    """A run that an accident happens to.

    Attributes:
        process: the command.
        output: the output folder; None: it is on an object store.
        scratch: a folder of the test.
        chance: of this run.
    """

    process: subprocess.Popen
    output: Path | None
    scratch: Path
    chance: Random

    def processes(self, *kinds: str) -> list[psutil.Process]:
        """The run's processes of these kinds, found below the command; `command` is the command itself."""
        found = []
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            found = [own] if "command" in kinds else []
            for child in own.children(recursive=True):
                with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    if any(_name(child).startswith(NAMES[kind]) for kind in kinds if kind in NAMES):
                        found.append(child)
        return found


def _name(process):
    words = process.cmdline()
    return words[0].rpartition("/")[2] if words and not words[0].startswith("ray::") else "".join(words[:1])


@dataclass
class Accident:
    """One accident.

    Attributes:
        name: what is printed.
        needs: kind of process that must be there before it happens.
        codes: exit codes that the command may end with.
        stops: whether the command must be waited for, and things put right, before anything else happens.
    """

    name: str
    needs: str = "worker"
    codes: frozenset[int] = frozenset({COMPLETE, STOPPED})
    stops: bool = False

    def happen(self, victim: Victim) -> None:
        raise NotImplementedError

    def put_right(self, victim: Victim) -> None:
        """What a user does before running the command again."""


@dataclass
class Kill(Accident):
    """Kills one process of a kind, or all of them."""

    kinds: tuple[str, ...] = ()
    all: bool = False

    def happen(self, victim):
        found = victim.processes(*self.kinds)
        for process in found if self.all else found[:1]:
            with suppress(psutil.NoSuchProcess):
                process.kill()


@dataclass
class Pause(Accident):
    """Stops processes for some seconds, as a suspended laptop does."""

    kinds: tuple[str, ...] = ()

    def happen(self, victim):
        found = victim.processes(*self.kinds)
        for name in ("suspend", "resume"):
            for process in found:
                with suppress(psutil.NoSuchProcess):
                    getattr(process, name)()
            if name == "suspend":
                time.sleep(victim.chance.uniform(0.3, 6))


@dataclass
class Renamed(Accident):
    """The output folder is moved away while the run goes on."""

    stops: bool = True

    def happen(self, victim):
        victim.output.rename(_aside(victim))

    def put_right(self, victim):
        assert not victim.output.exists(), "the old name was made anew"
        _aside(victim).rename(victim.output)


def _aside(victim):
    return victim.output.with_name(victim.output.name + "-aside")


@dataclass
class FullDisk(Accident):
    """Something else takes all the room of the disk that the output is on."""

    stops: bool = True

    def happen(self, victim):
        with self._ballast(victim).open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(1 << 16)):
                pass

    def put_right(self, victim):
        self._ballast(victim).unlink()

    def _ballast(self, victim):
        return victim.output.parent / "ballast"


@dataclass
class Linked(Accident):
    """A file or folder of the output becomes a link to something of the user's, which must not change."""

    stops: bool = True
    codes: frozenset[int] = frozenset({COMPLETE, STOPPED, USAGE})
    place: str = ""
    _before: dict[Path, bytes] = field(default_factory=dict)

    def happen(self, victim):
        theirs = victim.scratch / "theirs"
        theirs.mkdir()
        (theirs / "photo.parquet").write_bytes(os.urandom(1000))
        (theirs / "notes.jsonl").write_text("not ours\n")
        self._before = _contents(theirs)
        place = victim.output / self.place
        with suppress(FileNotFoundError):
            place.rename(_aside(victim))  # on the output's own disk
        with suppress(FileExistsError):  # the run was faster
            place.symlink_to(theirs if "." not in self.place else theirs / "notes.jsonl")

    def put_right(self, victim):
        theirs, aside, place = victim.scratch / "theirs", _aside(victim), victim.output / self.place
        assert _contents(theirs) == self._before, f"{self.place} was linked, and what the link names changed"
        if place.is_symlink():
            place.unlink()
        if aside.exists() and not place.exists() and self.place != "run.lock":
            aside.rename(place)
        elif aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink(missing_ok=True)


def _contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


EVERYTHING = ("worker", "bridge", "command", "raylet", "gcs")


def local_accidents(chance: Random, *, disk: bool) -> list[Accident]:
    """One of every kind for a local output.

    Args:
        chance: chooses who is paused and what is linked.
        disk: whether the output is on a disk that may be filled.
    """
    place = chance.choice(["shards", "parts", "attempts", "events.jsonl", "run.lock", "manifest.parquet"])
    return [
        *process_accidents(chance),
        Kill("command", kinds=("command",), stops=True, codes=frozenset({-signal.SIGKILL})),
        Renamed("output renamed"),
        Linked(f"{place} linked", place=place),
        *([FullDisk("full disk")] if disk else []),
    ]


def process_accidents(chance: Random) -> list[Accident]:
    """Those that only happen to processes, so that any output will do."""
    paused = chance.choice([("worker",), ("bridge",), ("command",), ("raylet",), ("gcs",), EVERYTHING])
    return [
        Kill("worker", kinds=("worker",)),
        Kill("bridge", kinds=("bridge",)),
        Kill("all workers and bridge", kinds=("worker", "bridge"), all=True),
        Kill("raylet", kinds=("raylet",), stops=True),
        Kill("gcs", kinds=("gcs",), stops=True),
        Pause(f"paused {'everything' if paused == EVERYTHING else paused[0]}", kinds=paused),
    ]
