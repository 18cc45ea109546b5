"""Tells a source folder that is gone from a file that cannot be read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rawnind.errors import SourceError, SourceLostError
from rawnind.locations import is_uri
from rawnind.reasons import Reason
from rawnind.source.storage import is_reachable

_MAYBE_LOST = (Reason.MISSING_FILE, Reason.UNREADABLE)


@contextmanager
def checking_source(root: str) -> Iterator[None]:
    """Raises SourceLostError where a file below `root` cannot be read because the whole folder is gone."""
    try:
        yield
    except SourceError as error:
        if error.reason in _MAYBE_LOST and _is_gone(root):
            raise SourceLostError(
                f"the source folder {root} cannot be reached any more; bring it back and run again to resume"
            ) from error
        raise


def _is_gone(root: str) -> bool:
    """Whether a folder cannot be listed, or is empty, like the mount point of a disk that was unmounted."""
    if is_uri(root):
        return not is_reachable(root)
    try:
        with os.scandir(root) as entries:
            return next(entries, None) is None
    except OSError:
        return True
