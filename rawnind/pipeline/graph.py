"""The Ray graph: the only place where the stages of a run are wired together."""

import hashlib
import logging
import re
import time
import weakref
from collections.abc import Sequence
from typing import Any

import ray
from ray._private.log import PlainRayHandler
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.exceptions import RayError
from ray.util.debug import log_once
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import rawnind.installation
from rawnind import timing
from rawnind.bridge.actor import BridgeActor
from rawnind.bridge.in_flight import DiskBudget
from rawnind.capacity import Pool
from rawnind.chunks import Chunk, chunks_of
from rawnind.errors import FolderInUseError, redacted
from rawnind.fetch.on_demand import OnDemand, remove_fetched
from rawnind.installation import Installation, as_installation, describe
from rawnind.locations import is_uri
from rawnind.pipeline.calls import translated
from rawnind.pipeline.job import Assignment, Job
from rawnind.pipeline.metrics import RayMetrics
from rawnind.pipeline.pickled_plan import PickledPlan
from rawnind.pipeline.ray_cluster import NAMESPACE, is_local, listens_on_loopback
from rawnind.pipeline.worker import SceneWorker, scene_row
from rawnind.records import Scene


def bridge_name(output: str) -> str:
    """Name of the bridge actor that serves an output folder, in the namespace `rawnind`.

    >>> bridge_name("s3://bucket/my set")
    'bridge-my-set-119e5b2c89f1'
    """
    leaf = re.sub(r"[^\w.]+", "-", output.rstrip("/").rpartition("/")[2], flags=re.ASCII)[:40]
    return f"bridge-{leaf}-{hashlib.sha256(output.encode()).hexdigest()[:12]}"


def start_bridge(job: Job, *, max_scenes: int) -> Any:
    """The bridge as a named actor that Ray restarts when it dies.

    The bridge of a run whose driver died keeps its name for some seconds; this waits until the name is free.

    Raises:
        FolderInUseError: Another run on this cluster has a bridge for the folder.
    """
    end = time.monotonic() + timing.BRIDGE_NAME
    while True:
        try:
            return _bridge(job, max_scenes)
        except ValueError as error:  # the name is taken
            if time.monotonic() > end:
                raise FolderInUseError(
                    f"another run on this cluster is working on {redacted(job.output)}. Wait for it, or choose a new --output."
                ) from error
        time.sleep(timing.DRIVER_POLL)


_HEAD = "node:__internal_head__"
"""A resource of the head node alone. Other nodes may come and go, and the bridge with them."""


_CALLS = 32
"""Calls that the bridge takes at once: so many workers' results are committed together while an earlier commit is written."""


def _bridge(job: Job, max_scenes: int) -> Any:
    actor = ray.remote(BridgeActor).options(
        name=bridge_name(job.output),
        namespace=NAMESPACE,
        num_cpus=0,
        resources={_HEAD: 0.001},
        max_concurrency=_CALLS,
        max_restarts=-1,
        max_task_retries=-1,
    )
    arguments = ray.put(PickledPlan(job.plan)), ray.put(job.changed)
    bridge = actor.remote(
        job.output,
        job.run,
        arguments[0],
        max_scenes=max_scenes,
        budget=_disk_budget(job),
        retry=job.options.retry_failed,
        changed=arguments[1],
        observer=RayMetrics(bridge_name(job.output)),
        lock=job.lock,
        installation=job.installation,
    )
    # Ray frees large arguments once the actor has started, and could then not restart it.
    weakref.finalize(bridge, lambda _: None, arguments).atexit = False
    return bridge


def _disk_budget(job: Job) -> DiskBudget | None:
    if job.fetched is None or job.options.disk_budget is None:
        return None
    return DiskBudget(limit=job.options.disk_budget * 1e9, sizes=job.fetched.sizes())


def require_same_installation(installation: Installation | None) -> None:
    """Compares what each node of a cluster imports with what the driver does; bridge and workers do so once more.

    Args:
        installation: of the driver; None: nothing is compared.

    Raises:
        CodeMismatchError: They differ, or a node lacks the package.
    """
    others = [node for node in ray.nodes() if node["Alive"] and not listens_on_loopback(node)]
    if not others or installation is None:
        return
    ray.cloudpickle.register_pickle_by_value(rawnind.installation)  # nodes may lack the package
    try:
        tasks = [
            ray.remote(describe)
            .options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            )
            .remote()
            for node in others
        ]
    finally:
        ray.cloudpickle.unregister_pickle_by_value(rawnind.installation)
    done, _ = ray.wait(tasks, num_returns=len(tasks), timeout=timing.CONNECT)
    for task in done:
        try:
            described = ray.get(task)
        except RayError as error:
            raise translated(error) from error
        installation.require_same(as_installation(described))


def work_of(job: Job, todo: Sequence[Scene]) -> list[Chunk]:
    """What workers take at a time, in order: scenes, and chunks of large ones.

    A scene whose photos are fetched is not divided: its worker fetches them together, and removes them when it is committed.

    Args:
        job: the run.
        todo: the open scenes.
    """
    if job.fetched:
        return [Chunk(scene=scene) for scene in todo]
    return [chunk for scene in todo for chunk in chunks_of(scene)]


def build_pipeline(job: Job, todo: Sequence[Chunk], bridge: Any, *, pool: Pool) -> Dataset:
    """A data set of scenes, and after it one row per block of them, in the order in which the blocks are done.

    The pool may shrink to one worker, so that it cannot deadlock on CPUs which it holds itself (ray#44687).

    Args:
        job: the run.
        todo: from `work_of`.
        bridge: handle of the bridge actor.
        pool: the most workers, and the memory of each.
    """
    quiet_ray_data()
    blocks = -(-len(todo) // rows_per_block(len(todo), pool.workers))
    files = job.fetched.files if job.fetched else {}
    items = [scene_row(chunk, files.get(chunk.scene.key)) for chunk in todo]
    rows = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
        SceneWorker,
        batch_size=None,
        batch_format="pyarrow",
        fn_constructor_kwargs={"assignment": assignment(job, bridge, pool.memory)},
        compute=ActorPoolStrategy(
            min_size=1,
            max_size=pool.workers,
            max_tasks_in_flight_per_actor=_QUEUED,
            max_concurrent_calls_per_actor=_QUEUED,
            enable_true_multi_threading=True,
        ),
        num_cpus=job.options.cpus_per_scene,
        # so that Ray does not place too many workers on one node, and an autoscaler sees what they need
        memory=None if is_local() else pool.needed,
    )
    # Ray adds workers where more calls are queued than run; here both of a worker run, and it would never have a second one.
    rows.context.autoscaling_config.actor_pool_util_upscaling_threshold /= _QUEUED
    rows.set_name("scenes")  # for the dashboard
    return rows


def assignment(job: Job, bridge: Any, memory: float) -> Assignment:
    """What each worker of a run is given.

    Args:
        job: the run.
        bridge: handle of the bridge actor.
        memory: bytes that the worker may use.
    """
    return Assignment(
        output=job.output,
        run=job.run,
        root=job.root,
        recipe=job.plan.recipe,
        bridge=bridge,
        scene_timeout=job.options.scene_timeout,
        memory=memory,
        lock=job.lock,
        installation=job.installation,
        fetches=job.fetched is not None,
        keep_raw=job.fetched is not None and job.fetched.keep,
        shared=job.fetched.shared if job.fetched else frozenset(),
    )


def remove_fetched_everywhere(fetched: OnDemand, scenes: Sequence[Scene], output: str) -> None:
    """Removes what workers have left of fetched photos, on every node: one may have ended between a commit and the removal.

    Args:
        fetched: the data set.
        scenes: those of the run.
        output: local path or URI of the output folder.
    """
    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    if not is_uri(output) or len(alive) == 1:
        remove_fetched(fetched, scenes, output)
        return
    arguments = [ray.put(each) for each in (fetched, scenes)]
    tasks = [
        ray.remote(remove_fetched)
        .options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        )
        .remote(*arguments, output)
        for node in alive
    ]
    ray.wait(tasks, num_returns=len(tasks), timeout=timing.SHUTDOWN)


def rows_per_block(scenes: int, workers: int) -> int:
    """Scenes (or chunks) that a worker takes at once: each block costs Ray 11 ms, but at the end of a run one worker may have a whole one.

    >>> [rows_per_block(scenes, 2) for scenes in (1, 307, 1000, 20_000)]
    [1, 1, 5, 64]
    """
    return max(1, min(_MOST_ROWS, scenes // (_BLOCKS_PER_WORKER * workers)))


_MOST_ROWS, _BLOCKS_PER_WORKER = 64, 100


_QUEUED = 2
"""Blocks at a worker: one that it processes and one that it fetches or commits meanwhile. The bridge limits how many scenes are in
flight."""


def quiet_ray_data() -> None:
    """Disables Ray Data's progress bars, and keeps what it logs in its file: on the terminal it would mix with the run's own output.

    What ends a run is one sentence of the run's own.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    logger = logging.getLogger("ray.data")
    logger.setLevel(logging.WARNING)
    for handler in logger.handlers:
        if isinstance(handler, PlainRayHandler):
            handler.setLevel(logging.CRITICAL)
    # Marks Ray's warning that progress bars are disabled as logged already.
    log_once("ray_data_progress_manager_disabled")
