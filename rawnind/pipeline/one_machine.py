"""A Ray that serves one run on one machine: what it starts beside the run's own processes, and can do without.

Ray starts a server for a dashboard, one for an autoscaler, and one that shows what workers print. Ray Data starts three actors: one
tells the dashboard what it does, one asks the autoscaler for nodes, one remembers on which node a worker is. Each is a process that
imports Ray: together they take a third of the CPU time of a run of one small scene, and then a twentieth of a core. With one node and
no dashboard nobody asks them, or the driver knows the answer. Ray has no option for it.
"""

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray._private import utils
from ray._private.node import Node

_KNOWN = "2.60."
"""Of Ray Data's releases, those whose actors are known to be asked for nothing else; another one starts its own."""

_SERVERS = ("start_monitor", "start_log_monitor", "start_api_server")
_REPORTS = ("update_execution_metrics", "update_iteration_metrics", "register_dataset_to_stats_actor")


@contextlib.contextmanager
def fewer_servers() -> Iterator[None]:
    """Lets Ray start without its servers, and its agent without the part that answers them.

    A version of Ray that names one of them otherwise starts it.
    """
    replaced: list[tuple[Any, str, Any]] = [(Node, name, _ignore) for name in _SERVERS]
    replaced.append((utils, "get_dashboard_dependency_error", lambda: ImportError("not needed")))
    with contextlib.ExitStack() as stack:
        for owner, name, value in replaced:
            if name in vars(owner):
                stack.enter_context(_replaced(owner, name, value))
        yield


@contextlib.contextmanager
def fewer_actors() -> Iterator[None]:
    """Lets Ray Data run without its actors, once Ray has started."""
    if not ray.__version__.startswith(_KNOWN):
        yield
        return
    # other releases may lack these
    from ray.data._internal.cluster_autoscaler import rate_based_cluster_autoscaler as autoscaler  # noqa: PLC0415
    from ray.data._internal.execution.operators import actor_pool_map_operator as pool  # noqa: PLC0415
    from ray.data._internal.stats import _StatsManager as Statistics  # noqa: PLC0415

    with contextlib.ExitStack() as stack:
        for name in _REPORTS:
            stack.enter_context(_replaced(Statistics, name, staticmethod(_ignore)))
        for owner, name, value in (
            (Statistics, "gen_dataset_id_from_stats_actor", staticmethod(lambda: uuid.uuid4().hex)),
            (autoscaler, "DefaultAutoscalingCoordinator", _OneNode),
            (pool, "get_or_create_actor_location_tracker", _NoTracker),
            (pool, "get_actor_locations", lambda _: {}),  # it then takes what the worker itself has said
        ):
            stack.enter_context(_replaced(owner, name, value))
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _ignore(*_: Any, **__: Any) -> None:
    pass


class _OneNode:
    """Ray Data's `AutoscalingCoordinator` where no node can be added: it has what there is."""

    def __init__(self, **_: Any) -> None:
        self._resources = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}

    request_resources = cancel_request = _ignore

    def get_reserved_resources(self) -> Mapping[str, Mapping[str, float]]:
        """Resources by node."""
        return self._resources


class _NoTracker:
    """Ray Data's `ActorLocationTracker` where there is one location: it is told, and forgets."""

    class update_actor_location:  # noqa: N801 - a method of an actor, which has `remote`
        """Ignores where a worker is."""

        remote = staticmethod(_ignore)
