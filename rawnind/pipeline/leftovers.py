"""Ends processes of a local Ray that outlived the run which had started it.

Ray's agents do not always end when the driver, the raylet or the head is killed. A local run leaves a mark with its own
process in Ray's session folder. A process of Ray that has a file of a marked folder open, while the process of the mark is
gone, belongs to nobody any more.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

_MARK = "rawnind-driver"
_PROC = Path("/proc")


def mark(session: Path) -> None:
    """Marks the session folder of a Ray that this process has started."""
    (session / _MARK).write_text(_identity(os.getpid()))


def end_leftovers(own: Path | None = None) -> list[int]:
    """Ends what is left of local Rays whose driver is gone.

    Args:
        own: the session folder of this process's own Ray, which has been shut down; None: it has none.

    Returns:
        The ids of the processes that were ended.
    """
    ended = []
    for process in _PROC.glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile, or is another user's
            session = _session(process) if _is_ray(process) else None
            if session and (session == own or not _driver_runs(session)):
                os.kill(int(process.name), signal.SIGKILL)
                ended.append(int(process.name))
    return ended


def _is_ray(process: Path) -> bool:
    name = (process / "comm").read_text().strip()
    return process.stat().st_uid == os.getuid() and (
        name.startswith("ray::") or name in {"raylet", "gcs_server"}
    )


def _session(process: Path) -> Path | None:
    """The marked session folder in whose logs a process writes; None where there is none."""
    for descriptor in (process / "fd").iterdir():
        folder = descriptor.readlink().parent
        if folder.name == "logs" and (folder.parent / _MARK).is_file():
            return folder.parent
    return None


def _driver_runs(session: Path) -> bool:
    known = (session / _MARK).read_text()
    return known == _identity(int(known.partition(" ")[0]))


def _identity(pid: int) -> str:
    """The id of a process and when it started, which together are never given twice; without the time where it does not run."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except FileNotFoundError:
        return str(pid)
    state, *fields = stat.rpartition(")")[2].split()
    return str(pid) if state in {"Z", "X"} else f"{pid} {fields[18]}"  # proc_pid_stat(5): field 22, starttime
