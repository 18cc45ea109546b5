"""The execution of a Ray data set by the driver, which can be ended at any time."""

import contextlib
import queue
import threading
from typing import Any

import ray
from ray.data import Dataset
from ray.exceptions import RayError

from rawnind import timing
from rawnind.pipeline.calls import translated


class Execution:
    """Executes a data set and puts its rows into a queue, so that the driver can do other things while it waits.

    `Dataset.iter_batches` hands rows out too, but nobody can end it from outside: when the connection to Ray is closed, it
    complains in tracebacks that Ray is gone.

    Args:
        rows: the data set.

    Attributes:
        received: the rows, then None, or the error that ended the execution.
    """

    def __init__(self, rows: Dataset) -> None:
        self.received: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()
        self._executor = rows._create_executor()
        self._bundles = rows._build_bundle_iterator(self._executor)
        self._thread = threading.Thread(target=self._receive, name="rawnind-rows", daemon=True)
        self._thread.start()

    def _receive(self) -> None:
        try:
            for bundle in self._bundles:
                for block in ray.get(list(bundle.block_refs)):
                    for row in block.to_pylist():
                        self.received.put(row)
        except RayError as error:
            self.received.put(translated(error))
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread
            self.received.put(error)
        else:
            self.received.put(None)

    def end(self) -> None:
        """Ends the workers and the threads, unless they have ended."""
        with contextlib.suppress(RayError):
            self._executor.shutdown(force=True)
        self._thread.join(timing.SHUTDOWN)

    def abandon(self) -> None:
        """Ends the threads where Ray is gone, and calls it no more.

        After `ray.shutdown`, Ray ends the whole process as soon as a thread has called it: the executor would do so to end its
        workers.
        """
        self._executor._shutdown = True  # it ends after its present step, and has nothing left to shut down
        self._executor.join(timing.SHUTDOWN / 2)
        self._thread.join(timing.RAY_CHECK)
