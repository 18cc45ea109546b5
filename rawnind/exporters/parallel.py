"""Runs a function over many items in threads and returns the results in order."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_order(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """The results of a function for each item, in order, from as many threads as there are cores; few items wait at a time.

    Args:
        work: releases the GIL for most of its time, or nothing is gained.
        items: any number.
    """
    cores = len(os.sched_getaffinity(0))
    pending: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(cores, "export") as threads:
        try:
            for item in items:
                pending.append(threads.submit(work, item))
                if len(pending) > cores:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)
