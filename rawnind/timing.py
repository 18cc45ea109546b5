"""Intervals and timeouts of a run, in seconds.

They depend on each other: a worker must not expire before its next heartbeat is due, and a stopped run must wait longer
than a dead worker takes to expire. What follows from something else is derived from it here, and the order that must
hold is checked at import.
"""

import itertools
from collections.abc import Mapping

HEARTBEAT = 5.0
"""A worker that processes a scene sends a heartbeat when a stage begins, or when so long has passed without one."""

HEARTBEAT_MIN = 1.0
"""After it began a scene, or sent a heartbeat, it sends none for so long: a small scene has more stages in a second than anyone
can see."""

RESTART_GRACE = HEARTBEAT + HEARTBEAT_MIN
"""The longest pause between two heartbeats. A restarted bridge admits no scene for so long: by then every running worker
has sent one, and --max-scenes holds."""

HEARTBEAT_OVERDUE = 3 * HEARTBEAT
"""Without a heartbeat for so long, a worker is shown as silent."""

WORKER_EXPIRY = 6 * HEARTBEAT
"""Without a heartbeat for so long, a worker is taken for dead and its scene is no longer in flight."""

WATCHDOG = 2 * WORKER_EXPIRY
"""Without a commit for so long, the run says what it is waiting for."""

ALARM_GRACE = HEARTBEAT
"""After --scene-timeout a worker's own thread has so long to record the timeout; then the system's alarm ends the process."""

ADMISSION_RETRY_MIN, ADMISSION_RETRY_MAX = 0.02, 0.5
"""A worker that was not admitted asks again after this, doubled each time up to the second."""

COMMIT_GROUP = 0.25
"""A worker holds results of small scenes back for so long, to commit them together; while a scene takes longer, until its first
heartbeat."""

DRIVER_POLL = 0.5
"""How long the driver waits for a result before it looks at signals, --timeout and the bridge."""

STOP_GRACE = 2 * WORKER_EXPIRY
"""Scenes in flight have so long to finish after a run was asked to stop."""

CONNECT = 30.0
"""A Ray cluster that did not answer for so long is not waited for any longer."""

RAY_CHECK = 1.0
"""How often the driver tries whether Ray's own processes still listen. Ray ends a driver ten seconds after its raylet."""

NODE_CHECK = 2.0
"""How often the driver asks the head of a cluster for its nodes."""

WORKER_WAIT = 6.0
"""Without a scene in flight for so long, a run on a cluster says what its workers wait for."""

FIRST_SCENE = 60.0
"""--timeout counts from the first scene's start, or from so long after the pipeline is built: a cluster that grows may take longer."""

SHUTDOWN = 10.0
"""How long a run that ends waits for the bridge's answer and for the thread that receives results."""

BRIDGE_NAME = 30.0
"""The bridge of a run whose driver died keeps its actor name for some seconds; the next run waits so long for it."""

LOCK_RENEWAL = 15.0
"""How often a run renews the lock on an output folder in an object store."""

LOCK_EXPIRY = 4 * LOCK_RENEWAL
"""A lock that was not renewed for so long belongs to a dead run."""

FEED_POLL = 0.1
"""How long a live loader waits before it asks again for crops."""

FEED_LISTING = 2.0
"""A live loader that waits for a run lists the events on an object store at most this often."""

FEED_REPORT = 0.5
"""A live loader reports what it has handed out at most this often."""

FEED_REQUEST = 5.0
"""A live loader waits so long for one answer; a restarted bridge takes about one second."""

RANK_TIMEOUT = 300.0
"""A rank of a distributed training waits so long for the others."""

CONSUMER_EXPIRY = 2 * RANK_TIMEOUT
"""A consumer that asked for nothing for so long gets no share of the crops that are left at the end of a run."""

GAUGE = 1.0
"""A gauge is written at most this often; Ray exports it every ten seconds."""

_ORDERED = (
    ("HEARTBEAT_MIN", "HEARTBEAT", "RESTART_GRACE", "HEARTBEAT_OVERDUE", "WORKER_EXPIRY", "WATCHDOG"),
    ("HEARTBEAT_MIN", "ALARM_GRACE"),  # the watching thread wakes up in between
    ("ADMISSION_RETRY_MIN", "ADMISSION_RETRY_MAX", "HEARTBEAT"),
    ("COMMIT_GROUP", "DRIVER_POLL", "HEARTBEAT"),
    ("RAY_CHECK", "CONNECT"),
    ("NODE_CHECK", "WORKER_WAIT", "WATCHDOG"),
    ("SHUTDOWN", "WORKER_EXPIRY", "STOP_GRACE"),  # dead workers expire before the wait for them is over
    ("LOCK_RENEWAL", "LOCK_EXPIRY"),
    ("FEED_POLL", "FEED_REPORT", "FEED_LISTING", "FEED_REQUEST", "RANK_TIMEOUT", "CONSUMER_EXPIRY"),
    ("RESTART_GRACE", "RANK_TIMEOUT"),
)


def check(times: Mapping[str, float]) -> None:
    """Checks that every time is positive and shorter than those that must be longer.

    Raises:
        ValueError: Two times contradict each other.
    """
    for names in _ORDERED:
        for shorter, longer in itertools.pairwise(names):
            if not 0 < times[shorter] < times[longer]:
                raise ValueError(
                    f"timing: {shorter} ({times[shorter]:g} s) must be positive and below {longer} ({times[longer]:g} s)"
                )


check({name: value for name, value in globals().items() if isinstance(value, float)})
