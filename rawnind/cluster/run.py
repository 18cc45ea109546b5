"""One run of `prepare`, from a source to a manifest."""

import contextlib
import json
import math
import queue
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import rawpy
import ray
import yaml

from rawnind.cluster.bridge import Bridge
from rawnind.cluster.pipeline import NAMESPACE, Job, build_pipeline, pool_size, start_bridge
from rawnind.cluster.progress import Progress, Silent
from rawnind.config import Recipe
from rawnind.errors import (
    ConfigError,
    ManifestError,
    RawnindError,
    RecipeMismatchError,
    StoppedEarlyError,
)
from rawnind.options import Options
from rawnind.plan import Selection, make_plan
from rawnind.records import Summary
from rawnind.storage.index import load_index
from rawnind.storage.manifest import read_head, read_summary
from rawnind.storage.store import Store

RECIPE = "recipe.yaml"


def prepare(
    source: str | Path, output: str | Path, *, progress: Progress | None = None, **options: Any
) -> Summary:
    """Processes every scene of a source that has no outcome yet, and writes the manifest.

    Args:
        source: a folder of RAW files or an index YAML (see `storage.index.load_index`).
        output: a local folder, or a URI that pyarrow.fs opens.
        progress: told what happens; None: silence.
        options: names and values of `options.Options` and of `config.Recipe`, e.g. `crop_size=512, limit=10`.

    Returns:
        Counts over all planned scenes, also those that an earlier run collected.

    Raises:
        ConfigError: An option is wrong.
        IndexInvalidError: The source is not one.
        RecipeMismatchError: The folder was made with another recipe.
        FolderInUseError: Another run works on the folder.
        StoppedEarlyError: The run was stopped or ran out of time; run again to resume.
        OutputError: The output cannot be written; what was committed stays.
    """
    return run(source, output, Options.from_dict(options), progress or Silent())


def run(source: str | Path, output: str | Path, options: Options, progress: Progress) -> Summary:
    """`prepare` with checked options."""
    try:
        return _from_source(source, output, options, progress)
    finally:
        progress.close()


def _from_source(source: str | Path, output: str | Path, options: Options, progress: Progress) -> Summary:
    location = str(output) if "://" in str(output) else str(Path(output).absolute())
    index = load_index(source)
    selection = Selection(
        cfa=options.cfa, exclude_test_reserve=options.exclude_test_reserve, limit=options.limit
    )
    plan = make_plan(index.scenes, selection, options.recipe)
    store = Store(location)
    store.prepare_root()
    _claim(store, options.recipe)
    name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    job = Job(output=location, run=name, root=_root(Path(source)), plan=plan, options=options)
    local = Bridge(location, name, plan, max_scenes=1, retry=options.retry_failed)
    todo = local.open_scenes()
    progress.planned(index, plan, already=len(plan.selected) - len(todo))
    if not todo:
        return _settled(local, store, progress)
    with _ray(options.address):
        return _Run(job, progress).collect(todo)


def _root(source: Path) -> str:
    return str((source if source.is_dir() else source.parent).absolute())


def versions() -> dict[str, str]:
    """Versions of what touches pixels and numbers, for manifest.yaml."""
    names = ("rawnind", "ray", "numpy", "numba", "opencv-python-headless", "pyarrow", "rawpy", "scipy")
    return {**{name: version(name) for name in names}, "libraw": ".".join(map(str, rawpy.libraw_version))}


def _settled(bridge: Bridge, store: Store, progress: Progress) -> Summary:
    """Every scene has its outcome; the manifest is written only where it does not say so yet."""
    try:
        head = read_head(store)
    except FileNotFoundError:
        head = None
    if head and head["contents"] == bridge.contents():
        summary = read_summary(store)
    else:
        bridge.begin()
        summary = bridge.finish(versions())
    progress.finished(summary)
    return summary


def _claim(store: Store, recipe: Recipe) -> None:
    """Marks a new folder with its recipe, or checks an old one's."""
    try:
        known = yaml.safe_load(store.read(RECIPE))
    except FileNotFoundError:
        if store.list("parts"):
            raise ManifestError(f"{store.location} has committed scenes but no {RECIPE}") from None
        with contextlib.suppress(FileExistsError):  # another run was faster; its recipe is compared below
            store.write(RECIPE, yaml.safe_dump(recipe.as_dict(), sort_keys=False).encode())
        known = yaml.safe_load(store.read(RECIPE))
    except yaml.YAMLError as error:
        raise ManifestError(f"{store.location}/{RECIPE} is not YAML: {error}") from error
    wanted = recipe.as_dict()
    if not isinstance(known, dict):
        raise ManifestError(f"{store.location}/{RECIPE} is not a recipe")
    different = sorted(key for key in {*known, *wanted} if known.get(key) != wanted.get(key))
    if different:
        changes = ", ".join(f"{key} {known.get(key)} there and {wanted.get(key)} now" for key in different)
        raise RecipeMismatchError(
            f"{store.location} was made with another recipe ({changes}). Choose a new --output, or pass "
            f"--config {store.location}/{RECIPE} to go on with the old one."
        )


@contextlib.contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """A Ray to work on: the one that this process already has, or one that lives as long as the run."""
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    except ConnectionError as error:
        raise ConfigError(f"cannot reach a Ray cluster at {address or 'RAY_ADDRESS'}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


class _Run:
    """The driver's side of one run."""

    def __init__(self, job: Job, progress: Progress) -> None:
        self._job = job
        self._progress = progress
        self._rows: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._why = ""

    def collect(self, todo: list[str]) -> Summary:
        workers = pool_size(self._job.options, len(todo))
        bridge = start_bridge(self._job, max_scenes=self._job.options.max_scenes or workers)
        try:
            with _signals(self._interrupted):
                ray.get(bridge.begin.remote())
                self._drain(bridge, todo, workers)
                self._refuse_to_finish_early(bridge)
                summary: Summary = ray.get(bridge.finish.remote(versions()))
                self._progress.update(ray.get(bridge.snapshot.remote()))
        except StoppedEarlyError:
            raise
        except BaseException as error:
            ray.get(bridge.fail.remote(f"{type(error).__name__}: {error}"))
            raise
        finally:
            self._stop.set()
            ray.get(bridge.close.remote())
            ray.kill(bridge)
        self._progress.finished(summary)
        return summary

    def _refuse_to_finish_early(self, bridge: Any) -> None:
        if self._stop.is_set() and ray.get(bridge.open_scenes.remote()):
            raise StoppedEarlyError(f"{self._why}; run the same command again to resume")

    def _drain(self, bridge: Any, todo: list[str], workers: int) -> None:
        keys = set(todo)
        scenes = [scene for scene in self._job.plan.selected if scene.key in keys]
        rows = build_pipeline(self._job, scenes, bridge, workers=workers)
        thread = threading.Thread(target=self._pull, args=(rows,), name="rawnind-rows", daemon=True)
        thread.start()
        deadline = time.monotonic() + (self._job.options.timeout or math.inf)
        while True:
            if time.monotonic() >= deadline and not self._stop.is_set():
                self._ask_to_stop(f"--timeout of {self._job.options.timeout} s is over")
            if self._stop.is_set():
                bridge.stop.remote()
            with contextlib.suppress(queue.Empty):
                row = self._rows.get(timeout=0.5)
                if row is None:
                    break
                if isinstance(row, BaseException):
                    raise row
                if row["result"]:
                    telemetry = json.loads(row["telemetry"])
                    ray.get(bridge.commit.remote(row["key"], row["result"], telemetry))
            self._progress.update(ray.get(bridge.snapshot.remote()))
        thread.join()

    def _pull(self, rows: Any) -> None:
        """Moves rows from Ray to a queue, so that the driver can look at its clock while it waits."""
        try:
            for row in rows.iter_rows():
                self._rows.put(row)
        except BaseException as error:  # noqa: BLE001 - it is raised again by the thread that waits for the rows
            self._rows.put(_cause(error))
        else:
            self._rows.put(None)

    def _interrupted(self) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt
        self._ask_to_stop("stopped on request")

    def _ask_to_stop(self, why: str) -> None:
        self._why = why
        self._stop.set()
        self._progress.stopping(why)


def _cause(error: BaseException) -> BaseException:
    """What a worker raised on purpose, out of what Ray wrapped around it."""
    seen: BaseException | None = error
    while seen is not None:
        inner = getattr(seen, "cause", None)
        for candidate in (seen, inner):
            if isinstance(candidate, RawnindError):
                return candidate
        seen = seen.__cause__ or inner
    return error


@contextlib.contextmanager
def _signals(interrupted: Any) -> Iterator[None]:
    """SIGINT and SIGTERM ask the run to stop; outside of the main thread they stay as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: interrupted()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
