"""How many workers machines have room for: by CPUs, and by memory for the largest photo."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rawnind.errors import SourceError
from rawnind.memory import worker_bytes
from rawnind.options import Options
from rawnind.records import ImageRef, Scene
from rawnind.source.decode import FrameSize, headers

_RUN_BYTES = 1.1e9
"""Memory of what else a run has on a machine: its driver, its bridge and Ray's own processes, as measured in a local run."""

_OBJECT_STORE = 0.3
"""Share of a machine's memory that Ray takes for its object store, by default."""

_MOST_HEADERS = 4000
"""Photos whose headers are read before a run, 0.2 ms each on a local disk; of more photos, evenly spread ones."""

_MOST_GROWN = 1000
"""Workers of a pool on a cluster that an autoscaler enlarges: it does not publish how far. A driver feeds no more, see docs/cluster.md."""

_START_SITES, _PHOTO_SITES = 32e6, 0.5e6
"""Sites of noisy photos that take the CPU time of a worker's start, and those that take what each photo costs whatever its size."""

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """What one machine has for workers.

    Attributes:
        cpus: CPUs.
        memory: bytes without Ray's object store.
    """

    cpus: float
    memory: float

    @property
    def worker_memory(self) -> float:
        """Bytes that all workers may use together."""
        return max(0.0, self.memory - _RUN_BYTES)

    def slots(self, options: Options, needed: float) -> tuple[int, int]:
        """Workers by CPUs, and by memory too where each needs so many bytes."""
        slots = self.cpus // options.cpus_per_scene
        return int(slots), int(min(slots, self.worker_memory / needed))


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """The workers of a run.

    Attributes:
        workers: the most at once.
        memory: bytes that each may use.
        needed: bytes that the largest scene needs.
        reduced: a sentence where memory allows fewer workers than CPUs and options do; else empty.
    """

    workers: int
    memory: float
    needed: float
    reduced: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoSize:
    """A photo whose header was read, or whose size is estimated.

    Attributes:
        photo: the photo.
        truths: ground truths of its scene.
        size: what the header says; a square where it is estimated.
        is_estimated: whether the file was not read.
    """

    photo: ImageRef
    truths: int
    size: FrameSize
    is_estimated: bool = False

    @property
    def sites(self) -> int:
        """Sites of the photo with its margins."""
        return self.size.raw_height * self.size.raw_width

    def __str__(self) -> str:
        if self.is_estimated:
            return f"{self.photo.filename}, about {self.sites / 1e6:.0f} megapixels"
        return f"{self.photo.filename}, {self.size.raw_width} x {self.size.raw_height} pixels"


def this_machine() -> Node:
    """This machine as a local run would find it."""
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # no such file, or `max`
            memory = min(memory, int(Path(path).read_text()))
    return Node(cpus=float(os.cpu_count() or 1), memory=memory * (1 - _OBJECT_STORE))


def photo_sizes(
    scenes: Iterable[Scene],
    *,
    most: int = _MOST_HEADERS,
    on_error: Callable[[ImageRef, SourceError], None] = lambda *_: None,
) -> Iterator[PhotoSize]:
    """Sizes of photos that can be opened.

    Args:
        scenes: whose photos are looked at.
        most: photos that are opened.
        on_error: called for each photo that cannot be used, as its header shows; the run gives it its reason.
    """
    photos = [
        (ref, len(scene.ground_truths)) for scene in scenes for ref in (*scene.ground_truths, *scene.noisy)
    ]
    for ref, truths in photos[:: max(1, -(-len(photos) // most))]:
        try:
            size = headers(ref, delay=0)
        except SourceError as error:
            on_error(ref, error)
            continue
        yield PhotoSize(photo=ref, truths=truths, size=size)


def fits(size: PhotoSize, nodes: Sequence[Node]) -> bool:
    """Whether a single worker on one of the machines has enough memory for a photo."""
    return worker_bytes(size.sites) <= max(node.worker_memory for node in nodes)


def find_pool(
    nodes: Sequence[Node],
    options: Options,
    *,
    scenes: int,
    noisy: int,
    sizes: Iterable[PhotoSize],
    grows: bool = False,
) -> Pool:
    """The most workers that the machines have room for.

    They are no more than `max_scenes`; where that is not given, no more than have as much to do as their start takes. Photos that
    no machine has enough memory for do not count: they fail.

    Args:
        nodes: the machines.
        options: of the run.
        scenes: number of open scenes; each chunk of a large one counts.
        noisy: number of their noisy photos.
        sizes: of their photos, or of some of them.
        grows: whether an autoscaler may add machines; then those of today do not bound the pool.
    """
    fitting = [size for size in sizes if fits(size, nodes)]
    largest = max(fitting, key=lambda size: worker_bytes(size.sites, size.truths), default=None)
    room = max(node.worker_memory for node in nodes)
    needed = min(worker_bytes(largest.sites, largest.truths), room) if largest else worker_bytes(0)
    slots = [node.slots(options, needed) for node in nodes]
    wanted = min(scenes, options.max_scenes or _busy(noisy, fitting))
    room_by_cpus, room_by_memory = (sum(counts) for counts in zip(*slots, strict=True))
    if grows:
        room_by_cpus = room_by_memory = max(_MOST_GROWN, room_by_memory)
    by_cpus = max(1, min(wanted, room_by_cpus))
    workers = max(1, min(wanted, room_by_memory))
    shares = [
        node.worker_memory / min(count, workers)
        for node, (_, count) in zip(nodes, slots, strict=True)
        if count
    ]
    reduced = ""
    if workers < by_cpus:
        total = sum(node.worker_memory for node in nodes)
        reduced = (
            f"{workers} of {by_cpus} workers, because memory is short: the largest scene needs {needed / 1e9:.1f} GB "
            f"({largest}), and all workers together have {total / 1e9:.1f} GB."
        )
    return Pool(workers=workers, memory=min(shares, default=room), needed=needed, reduced=reduced)


def _busy(noisy: int, sizes: Sequence[PhotoSize]) -> int:
    """Workers with as much to do as their start takes: the first one has processed a few small photos before the next one runs.

    Photos of which no size is known may be large, as where the workers alone can open them.
    """
    sites = sum(size.sites for size in sizes) / len(sizes) if sizes else _START_SITES
    return max(1, int(noisy * (sites + _PHOTO_SITES) / _START_SITES))
