"""Calls of the bridge from the driver, which end where the bridge or Ray itself does not come back."""

import contextlib
import queue
import re
import threading
import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from rawnind import errors, timing
from rawnind.errors import ProgramError, RawnindError, RayLostError, WorkersDyingError
from rawnind.pipeline.ray_cluster import is_reachable, listens_on_loopback

_CRASHES = 5
"""Restarts of the bridge during one call after which the run stops. Ray would restart it for ever."""


class RayWatch:
    """Notices that a process of Ray ended, before Ray ends this process too, some ten seconds later and with exit code 1.

    A head that restarts is waited for on a cluster; Ray waits for a minute.
    """

    def __init__(self) -> None:
        context = ray.get_runtime_context()
        own = next((node for node in ray.nodes() if node["NodeID"] == context.get_node_id()), None)
        patience = timing.CONNECT if own and not listens_on_loopback(own) else timing.RAY_CHECK
        servers = {"Ray's head (GCS)": (context.gcs_address, patience)}
        if own:
            raylet = f"{own['NodeManagerAddress']}:{own['NodeManagerPort']}"
            servers["Ray's process on this machine (raylet)"] = raylet, timing.RAY_CHECK
        self._servers = {name: server for name, server in servers.items() if is_reachable(server[0])}
        self._failing: dict[str, float] = {}
        self._checked = time.monotonic()

    def check(self) -> None:
        """Tries to connect to both; at most once a second.

        Raises:
            RayLostError: One did not answer for longer than it may take to restart.
        """
        if time.monotonic() - self._checked >= timing.RAY_CHECK:
            self._all_reachable()

    def require(self) -> None:
        """Called where a call of Ray has failed: returns where Ray itself is not the cause.

        Raises:
            RayLostError: As `check`, after waiting for one that may restart.
        """
        while not self._all_reachable():
            time.sleep(timing.DRIVER_POLL)

    def _all_reachable(self) -> bool:
        now = self._checked = time.monotonic()
        for name, (address, patience) in self._servers.items():
            if is_reachable(address):
                self._failing.pop(name, None)
            elif now - self._failing.setdefault(name, now) >= patience:
                raise RayLostError(
                    f"{name} at {address} has ended: memory may be too short, or it was stopped. What was committed stays; "
                    "run the same command again to resume."
                )
        return not self._failing


class BridgeCalls:
    """Calls the methods of a bridge. Ray calls again where the bridge was restarted meanwhile.

    Args:
        bridge: the actor's handle.
        watch: of the Ray that runs it.
    """

    def __init__(self, bridge: Any, watch: RayWatch) -> None:
        self._bridge = bridge
        self._watch = watch

    def __call__(self, method: str, *arguments: Any) -> Any:
        """Calls a method and returns what it returns.

        Args:
            method: its name.
            arguments: its arguments.

        Raises:
            RawnindError: The bridge's own error.
            WorkersDyingError: The bridge's process ends whenever it is started.
            RayLostError: Ray itself has ended.
            ProgramError: Anything else.
        """
        reference = getattr(self._bridge, method).remote(*arguments)
        before: int | None = None
        while True:
            try:
                return ray.get(reference, timeout=timing.RAY_CHECK)
            except GetTimeoutError:
                self._watch.check()
            except RayError as error:
                self._watch.require()
                raise translated(error) from error
            if (restarts := self._restarts()) is None:
                continue
            before = restarts if before is None else before
            if restarts - before >= _CRASHES:
                raise WorkersDyingError(
                    f"the bridge, which commits results, ended {_CRASHES} times before it answered. Memory may be too short for it; "
                    "see Ray's log of the worker, then run again."
                )

    def _restarts(self) -> int | None:
        """How often Ray has restarted the bridge; None where Ray's head does not answer.

        A thread asks: where the head has ended, the question would block for a minute, after which Ray ends the process.
        """
        answer: queue.SimpleQueue[int] = queue.SimpleQueue()

        def ask() -> None:
            with contextlib.suppress(RayError):  # Ray's public state API needs the dashboard
                answer.put(int(ray._private.state.actors(self._bridge._actor_id.hex()).get("NumRestarts", 0)))

        threading.Thread(target=ask, name="rawnind-restarts", daemon=True).start()
        try:
            return answer.get(timeout=timing.RAY_CHECK)
        except queue.Empty:
            return None


_OWN_ERROR = re.compile(r"rawnind\.errors\.(\w+): (.*)")


def translated(error: RayError) -> RawnindError:
    """The package's own error inside Ray's, or a ProgramError with the last line of the traceback."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    if isinstance(cause, RawnindError):
        return cause
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    if isinstance(error, RayActorError) and error.actor_init_failed and (own := _OWN_ERROR.findall(text)):
        return _made(*own[-1])  # Ray keeps only the text of an error that a constructor raised
    lines = [
        line for line in text.split("\n\nThe above exception was the direct cause", 1)[0].splitlines() if line.strip()
    ]  # fmt: skip
    frames = [line.strip() for line in lines if line.lstrip().startswith("File ")]
    where = f" ({frames[-1]})" if frames else ""
    return ProgramError(f"{lines[-1] if lines else type(error).__name__}{where}")


def _made(name: str, text: str) -> RawnindError:
    kind = getattr(errors, name, ProgramError)
    takes_text = isinstance(kind, type) and issubclass(kind, RawnindError) and kind is not errors.SourceError
    return kind(text) if takes_text else ProgramError(f"{name}: {text}")
