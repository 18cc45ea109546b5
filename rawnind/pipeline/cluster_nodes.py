"""The nodes of a cluster: what they have for workers, which come and go, and why no worker runs."""

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.core.generated.autoscaler_pb2 import GetClusterResourceStateReply, NodeStatus
from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_get

from rawnind import timing
from rawnind.bridge.messages import Snapshot
from rawnind.capacity import Node, Pool
from rawnind.errors import ConfigError
from rawnind.options import Options
from rawnind.pipeline.ray_cluster import is_local

_MOST_NAMED = 3
"""Nodes that a sentence names; more are counted."""


def nodes() -> list[Node]:
    """The cluster's machines with CPUs. Ray's figure of a node's memory leaves its object store out.

    Where there is none yet, its memory counts as unlimited: an autoscaler adds it later.
    """
    found = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    return [Node(cpus=each["CPU"], memory=each.get("memory", math.inf)) for each in found or [{"CPU": 0.0}]]


def may_grow() -> bool:
    """Whether an autoscaler may add nodes to the connected cluster, or that cannot be found out.

    An autoscaler publishes its nodes by type; where there is none, the type of a node is `node_` and its id.
    """
    if is_local():
        return False
    status = json.loads(_internal_kv_get("__autoscaling_status") or "{}")
    types = status.get("autoscaler_report", {}).get("active_nodes", {})
    return not types or not all(name.startswith("node_") for name in types)


def require_resources(options: Options) -> None:
    """Refuses a run of which no node could start a worker, unless an autoscaler may add larger nodes.

    Raises:
        ConfigError: No node has so many CPUs.
    """
    cpus = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    if options.cpus_per_scene <= max(cpus) or may_grow():
        return
    raise ConfigError(
        f"no node can run a worker with --cpus-per-scene {options.cpus_per_scene:g}: the largest of {len(cpus)} has "
        f"{max(cpus):g} CPUs. Lower it."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeState:
    """A node as the head of the cluster sees it.

    Attributes:
        name: its address and the beginning of its id.
        total: CPUs.
        free: CPUs that nobody has reserved.
        memory: bytes that nobody has reserved.
        leaves: whether it is drained: it is about to leave the cluster.
    """

    name: str
    total: float
    free: float
    memory: float
    leaves: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterState:
    """What the head of a cluster answers at one moment.

    Attributes:
        nodes: those with CPUs, by id.
        demands: what nobody could start yet, with the resources that it asks for.
    """

    nodes: Mapping[bytes, NodeState]
    demands: tuple[Mapping[str, float], ...]


class NodeWatch:
    """Says in sentences which nodes join and leave, and why no worker runs.

    Args:
        options: of the run.
        pool: its workers.
        ask: gives the state of the cluster; None where its head does not answer.
    """

    def __init__(self, options: Options, pool: Pool, ask: "Head") -> None:
        self._cpus = options.cpus_per_scene
        self._memory = pool.needed
        self._ask = ask
        self._nodes: Mapping[bytes, NodeState] | None = None
        self._checked = -math.inf
        self._idle_since: float | None = None
        self._waiting = False

    def sentences(self, snapshot: Snapshot) -> Iterator[str]:
        """What has changed since the last call; looks at most every `timing.NODE_CHECK`.

        Args:
            snapshot: the newest of the bridge.
        """
        now = time.monotonic()
        if now - self._checked < timing.NODE_CHECK:
            return
        self._checked = now
        if (state := self._ask()) is None:
            return
        yield from self._changes(state)
        yield from self._wait(snapshot, state, now)

    def _changes(self, state: ClusterState) -> Iterator[str]:
        before, self._nodes = self._nodes, state.nodes
        if before is None:
            return
        if joined := [node for key, node in state.nodes.items() if key not in before]:
            yield f"{_names(joined)} joined the cluster, which has {sum(node.total for node in state.nodes.values()):g} CPUs now."
        if leaving := [
            node for key, node in state.nodes.items() if node.leaves and not _left(before.get(key))
        ]:
            yield f"{_names(leaving)} will leave the cluster soon and gets no more scenes."
        if gone := [node for key, node in before.items() if key not in state.nodes]:
            rest = f"{len(state.nodes)} with CPUs {'is' if len(state.nodes) == 1 else 'are'} left"
            yield f"{_names(gone)} left the cluster; other workers process its scenes. {rest}."

    def _wait(self, snapshot: Snapshot, state: ClusterState, now: float) -> Iterator[str]:
        if snapshot.in_flight or not snapshot.scenes.open:
            if self._waiting:
                yield "Workers run again."
            self._idle_since, self._waiting = None, False
            return
        self._idle_since = self._idle_since or now
        if self._waiting or now - self._idle_since < timing.WORKER_WAIT or not self._is_asked_for(state):
            return
        self._waiting = True
        needs = (
            f"{self._cpus:g} {'CPU' if self._cpus == 1 else 'CPUs'} and {self._memory / 1e9:.1f} GB of memory"
        )
        yield f"No worker runs: it needs {needs} on one node, and {_free(state)}. The run waits."

    def _is_asked_for(self, state: ClusterState) -> bool:
        """Whether a worker of this run's size waits for a node."""
        return any(
            demand.get("CPU", 0.0) == self._cpus and abs(demand.get("memory", 0.0) - self._memory) < 1
            for demand in state.demands
        )


def _left(node: NodeState | None) -> bool:
    return node is not None and node.leaves


def _names(found: list[NodeState]) -> str:
    if len(found) > _MOST_NAMED:
        return f"{len(found)} nodes"
    return " and ".join(("Node " if place == 0 else "node ") + node.name for place, node in enumerate(found))


def _free(state: ClusterState) -> str:
    """What nodes have free: `the most that one has free is 0 of 2 CPUs with 11.2 GB`."""
    usable = [node for node in state.nodes.values() if not node.leaves]
    if not usable:
        return "no node has CPUs"
    best = max(usable, key=lambda node: (node.free, node.memory))
    return (
        f"the most that one has free is {best.free:g} of {best.total:g} CPUs and {best.memory / 1e9:.1f} GB"
    )


class Head:
    """Asks the head of the connected cluster for its state.

    Ray's public functions wait for a minute where the head has ended, and then end the process; this gives up after a second.
    """

    def __init__(self) -> None:
        self._client = ray._private.worker.global_worker.gcs_client

    def __call__(self) -> ClusterState | None:
        """The state; None where the head does not answer."""
        try:
            answer = self._client.get_cluster_resource_state(timeout_s=timing.RAY_CHECK)
        except RayError:
            return None
        state = GetClusterResourceStateReply.FromString(answer).cluster_resource_state
        alive = (node for node in state.node_states if node.status != NodeStatus.DEAD)
        return ClusterState(
            nodes={node.node_id: _node(node) for node in alive if node.total_resources.get("CPU")},
            demands=tuple(dict(each.request.resources_bundle) for each in state.pending_resource_requests),
        )


def _node(node: Any) -> NodeState:
    return NodeState(
        name=f"{node.node_ip_address} ({node.node_id.hex()[:6]})",
        total=node.total_resources["CPU"],
        free=node.available_resources.get("CPU", 0.0),
        memory=node.available_resources.get("memory", 0.0),
        leaves=node.status == NodeStatus.DRAINING,
    )
