"""Connects a run to a Ray cluster, or starts Ray on this machine."""

import contextlib
import logging
import os
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import ray_constants, services
from ray.job_config import JobConfig

from rawnind import timing
from rawnind.errors import ConfigError
from rawnind.options import Options
from rawnind.pipeline.leftovers import end_leftovers, mark
from rawnind.pipeline.one_machine import fewer_actors, fewer_servers
from rawnind.pipeline.signals import Interrupts

NAMESPACE = "rawnind"

_PACKAGE_FOLDER = str(Path(__file__).resolve().parents[2])
"""The folder that holds the package `rawnind` which this process runs."""

_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set in the driver of a job that `ray job submit` started."""

_TRIAL = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"

_log = logging.getLogger("rawnind.ray")


@contextlib.contextmanager
def connected(options: Options, interrupts: Interrupts) -> Iterator[None]:
    """Connects to Ray until the block ends, unless this process is connected already.

    Raises:
        ConfigError: The cluster cannot be reached, or Ray does not start.
    """
    if ray.is_initialized():
        yield
        return
    # Ray prints errors of the cluster to stdout, in pages where one of its processes dies.
    ray._private.worker.print_to_stdstream = _log_message
    # A thread of Ray Data that outlives the connection would otherwise start another Ray.
    ray._private.auto_init_hook.enable_auto_connect = False
    session: Path | None = None
    try:
        if target := cluster_address(options.address):
            connect(options.address, target)
            interrupts.install()  # Ray has replaced the handler of SIGTERM
            yield
            return
        with interrupts.deferred():
            session = _start(dashboard=options.dashboard)
        with contextlib.nullcontext() if options.dashboard else fewer_actors():
            yield
    finally:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its threads complain that Ray is gone
        ray.shutdown()
        if session is not None:
            end_leftovers(session)


def _log_message(data: Mapping[str, Any], *_: object, **__: object) -> None:
    _log.info("%s", "\n".join(map(str, data["lines"])))


def cluster_address(address: str | None) -> str | None:
    """Address of the cluster that `ray.init(address)` would connect to; None where it would start Ray on this machine.

    Raises:
        ConfigError: The text is no address, or that of a server through which a run cannot connect.
    """
    if "://" in (named := address or os.environ.get("RAY_ADDRESS", "")):
        raise ConfigError(
            f"{named} is the address of {'Ray Client' if named.startswith('ray:') else 'a job server'}, and rawnind connects to "
            "the head itself. Name that, such as --address 10.0.0.1:6379, on a machine of the cluster; from outside it, submit "
            "the run with `ray job submit`. For a Ray on this machine alone, --address local."
        )
    try:
        with loopback():
            found: str | None = services.canonicalize_bootstrap_address(address)
            if found is None and address == "auto":
                found = services.canonicalize_bootstrap_address_or_die(address)
    except (ConnectionError, ValueError, OSError) as error:
        raise ConfigError(f"{address or 'RAY_ADDRESS'} is not a Ray cluster: {_first_line(error)}") from error
    return found


def connect(address: str | None, target: str) -> None:
    """Connects to a cluster that runs already.

    A process of its own tries first: a connection that Ray retries for minutes could not be interrupted in this one.

    Args:
        address: what `ray.init` takes.
        target: of `cluster_address`.

    Raises:
        ConfigError: No cluster answers within `timing.CONNECT`.
    """
    end = time.monotonic() + timing.CONNECT
    while not is_reachable(target):
        if time.monotonic() > end:
            raise ConfigError(
                f"no process answers at {target}, where a Ray cluster should be. Start the cluster, correct --address or "
                "RAY_ADDRESS, or start Ray for this run alone with --address local."
            )
        time.sleep(timing.DRIVER_POLL)
    _try_to_connect(address or "auto", target, end - time.monotonic())
    try:
        with loopback():
            ray.init(address=address, job_config=_job_config(), **_QUIET)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"cannot connect to the Ray cluster at {target}: {_first_line(error)}") from error


def is_reachable(target: str) -> bool:
    """Whether a process listens at `host:port`; True for addresses of other forms."""
    host, _, port = target.rpartition(":")
    if not port.isdecimal():
        return True
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=timing.DRIVER_POLL):
            return True
    except OSError:
        return False


def _try_to_connect(address: str, target: str, seconds: float) -> None:
    words = [sys.executable, "-P", "-c", _TRIAL, address]
    environment = os.environ | {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}  # as in `loopback`
    try:
        trial = subprocess.run(  # noqa: S603 - Python itself, no shell
            words, env=environment, capture_output=True, text=True, errors="replace", timeout=seconds, check=False
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode(errors="replace")
    else:
        if trial.returncode == 0:
            return
        said = trial.stderr
    if "auth" in said.lower():
        raise ConfigError(
            f"the Ray cluster at {target} asks for a login token that this process does not send or that is not the "
            "cluster's. Set RAY_AUTH_MODE=token here, and give both sides the same token (~/.ray/auth_token or "
            "RAY_AUTH_TOKEN); or start the cluster with RAY_AUTH_MODE=disabled."
        )
    why = said.strip().splitlines()[-1:] or ["no answer of a Ray cluster"]
    raise ConfigError(f"cannot connect to a Ray cluster at {target} within {timing.CONNECT:g} s: {why[0]}")


def _start(*, dashboard: bool) -> Path:
    """Starts Ray on this machine, on the loopback interface alone; returns its session folder."""
    if ended := end_leftovers():
        _log.info("ended %d processes of Ray that a killed run has left", len(ended))
    try:
        with loopback(), contextlib.nullcontext() if dashboard else fewer_servers():
            ray.init(address="local", include_dashboard=dashboard, job_config=_job_config(), **_QUIET)
    except Exception as error:  # Ray raises Exception itself where its processes do not start in time
        raise ConfigError(_why_not_started(error)) from error
    session = Path(ray.nodes()[0]["RayletSocketName"]).parents[1]
    mark(session)
    return session


def _why_not_started(error: Exception) -> str:
    folder = get_default_ray_temp_dir()
    why = _first_line(error)
    if "AF_UNIX" in why:
        return f"Ray cannot start, because the path of its sockets is too long: set RAY_TMPDIR to a shorter folder than {folder}"
    if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
        return f"Ray cannot start in {folder}: {why}. Set RAY_TMPDIR to a folder that can be written."
    return (
        f"Ray cannot start: {why} Its logs are in {folder}/session_latest/logs. Where the machine is busy or short of memory, "
        "run again; another Ray can be named with --address."
    )


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


_QUIET: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": "ERROR"}


def _job_config() -> JobConfig | None:
    """The configuration with which workers import this process's package, and nothing from the current folder.

    Ray puts the current folder first into the path of its workers: a `yaml.py` there would run in them. It has no
    option for that, only `_client_job`. None for a submitted job, whose working directory is Ray's own copy.
    """
    if _JOB_CONFIG in os.environ:
        return None
    installed = _PACKAGE_FOLDER in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return JobConfig(_client_job=True, _py_driver_sys_path=[] if installed else [_PACKAGE_FOLDER])


def is_local() -> bool:
    """Whether the connected Ray is one that `connected` started for one run on this machine."""
    return all(map(listens_on_loopback, ray.nodes()))


def listens_on_loopback(node: Mapping[str, Any]) -> bool:
    """Whether a node of `ray.nodes()` is a Ray that `connected` started for one run on this machine."""
    return node["NodeManagerAddress"] in {"127.0.0.1", "::1"}


@contextlib.contextmanager
def loopback() -> Iterator[None]:
    """Lets Ray keep 127.0.0.1 as the address of this machine, as it does on macOS, where it would take that of the network.

    The servers of a Ray that starts here then listen on the loopback interface alone. Other addresses stay as they are.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
