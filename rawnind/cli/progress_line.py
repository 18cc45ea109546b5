"""A line of progress every two seconds."""

import time
from collections.abc import Callable

import click


def every_two_seconds(did: str, unit: str) -> Callable[[int, int], None]:
    """A progress callback that prints to stderr at most every two seconds: `exported 12 of 300 crops`.

    Args:
        did: what was done with each, such as "exported".
        unit: what is counted, such as "crops".
    """
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= 2:
            last = time.monotonic()
            click.echo(f"{did} {done} of {total} {unit}", err=True)

    return report
