"""What tests need of other processes: waits with a deadline, and ports that are free."""

import socket
import time


def poll(find, timeout=60.0, every=0.02):
    """Calls `find` until its result is true, and returns that result.

    Args:
        find: takes nothing; a false result means "not yet".
        timeout: seconds until TimeoutError.
        every: seconds between calls.
    """
    end = time.monotonic() + timeout
    while not (found := find()):
        if time.monotonic() > end:
            raise TimeoutError(f"{getattr(find, '__name__', find)} was false for {timeout} s")
        time.sleep(every)
    return found


def free_port():
    """A port that no process listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
