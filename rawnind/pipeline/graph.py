"""The Ray graph: the only place where the stages of a run are wired together."""

import gc
import hashlib
import logging
import pickle
import re
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.util.debug import log_once

from rawnind import timing
from rawnind.bridge.bridge import Bridge
from rawnind.errors import FolderInUseError
from rawnind.options import Options
from rawnind.pipeline.metrics import RayMetrics
from rawnind.pipeline.worker import SceneWorker, scene_row
from rawnind.planning import Plan
from rawnind.records import Scene

NAMESPACE = "rawnind"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Everything that the parts of one run need to know.

    Attributes:
        output: local path or URI of the output folder.
        run: names the run in events.jsonl and in the ledger of attempts.
        root: the folder that the photos come from.
        plan: every scene that the run knows of.
        options: how it goes about it.
        changed: keys of the scenes whose files changed since they were committed.
    """

    output: str
    run: str
    root: str
    plan: Plan
    options: Options
    changed: frozenset[str] = frozenset()


def bridge_name(output: str) -> str:
    """Name of the bridge actor that serves an output folder, in the namespace `rawnind`.

    >>> bridge_name("s3://bucket/my set")
    'bridge-my-set-119e5b2c89f1'
    """
    leaf = re.sub(r"[^\w.]+", "-", output.rstrip("/").rpartition("/")[2], flags=re.ASCII)[:40]
    return f"bridge-{leaf}-{hashlib.sha256(output.encode()).hexdigest()[:12]}"


def start_bridge(job: Job, *, max_scenes: int) -> Any:
    """The bridge as a named actor that Ray starts anew when it dies.

    The bridge of a run whose driver died may live on for some seconds; its name is waited for.

    Raises:
        FolderInUseError: Another run on this cluster has a bridge for the folder.
    """
    end = time.monotonic() + timing.BRIDGE_NAME
    while True:
        try:
            return _bridge(job, max_scenes)
        except ValueError as error:  # what Ray says to a name that is taken
            if time.monotonic() > end:
                raise FolderInUseError(
                    f"another run on this cluster is working on {job.output}. Wait for it, or choose a new --output."
                ) from error
        time.sleep(timing.DRIVER_POLL)


def _bridge(job: Job, max_scenes: int) -> Any:
    actor = ray.remote(Bridge).options(
        name=bridge_name(job.output),
        namespace=NAMESPACE,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
    )
    kept = ray.put(CarriedPlan(job.plan)), ray.put(job.changed)
    bridge = actor.remote(
        job.output,
        job.run,
        kept[0],
        max_scenes=max_scenes,
        retry=job.options.retry_failed,
        changed=kept[1],
        observer=RayMetrics(bridge_name(job.output)),
    )
    # Ray lets go of a large argument once the actor lives, and could then not start it anew.
    weakref.finalize(bridge, lambda _: None, kept).atexit = False
    return bridge


def pool_size(options: Options, scenes: int) -> int:
    """Workers that the cluster can run at once, no more than there are scenes or --max-scenes allows."""
    resources = ray.cluster_resources()
    limits = [scenes, int(resources.get("CPU", 1) // options.cpus_per_scene)]
    if options.gpus_per_scene:
        limits.append(int(resources.get("GPU", 0) // options.gpus_per_scene))
    if options.max_scenes:
        limits.append(options.max_scenes)
    return max(1, min(limits))


def build_pipeline(job: Job, todo: Sequence[Scene], bridge: Any, *, workers: int) -> Dataset:
    """One row per scene in, one small row per scene out, in whatever order they are ready.

    One row per block, so that a row comes out as soon as its scene is done; a pool that may shrink to one worker, so that
    it never waits for CPUs which it holds itself.
    """
    _quiet()
    rows = ray.data.from_items([scene_row(scene) for scene in todo], override_num_blocks=len(todo)).map(
        SceneWorker,
        fn_constructor_kwargs={
            "output": job.output,
            "run": job.run,
            "root": job.root,
            "recipe": job.plan.recipe,
            "bridge": bridge,
            "scene_timeout": job.options.scene_timeout,
        },
        compute=ActorPoolStrategy(min_size=1, max_size=workers, max_tasks_in_flight_per_actor=_QUEUED),
        num_cpus=job.options.cpus_per_scene,
        num_gpus=job.options.gpus_per_scene or None,
    )
    rows.set_name("scenes")  # for the dashboard
    return rows


_QUEUED = 2
"""Rows handed to a worker at once: with one, Ray sees no need for a second worker. The bridge bounds what really runs."""


def _quiet() -> None:
    """Ray Data's own log lines and progress bars would stand between ours; its warnings still come through."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # What Ray warns of once, that progress bars are disabled, was just asked of it.
    log_once("ray_data_progress_manager_disabled")


class CarriedPlan:
    """Unpickles as the plan, without pauses for the garbage collector.

    A million scenes are some ten million objects that all stay. Looking for garbage among them takes longer than making
    them: 11 s of 16 s from the start of the bridge to its first answer.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpacked, (pickle.PickleBuffer(pickle.dumps(self._plan, protocol=5)),)


def _unpacked(data: pickle.PickleBuffer) -> Plan:
    was_on = gc.isenabled()
    gc.disable()
    try:
        plan: Plan = pickle.loads(data)  # noqa: S301 - it comes from Ray, which has just unpickled what it stands in
    finally:
        if was_on:
            gc.enable()
    gc.freeze()  # a process of the bridge's own: nobody there looks at these again
    return plan
