"""Errors in a worker or its child process that must stop the whole run, as text between processes."""

import json

from rawnind import errors
from rawnind.errors import (
    CodeMismatchError,
    OutputError,
    RawnindError,
    SourceLostError,
    StoppedEarlyError,
    WorkersDyingError,
)

FATAL = (OutputError, StoppedEarlyError, SourceLostError, WorkersDyingError, CodeMismatchError)
"""Errors that must stop the whole run, and with them what is derived from them."""


def encode_trouble(error: RawnindError) -> str:
    """A fatal error as JSON."""
    return json.dumps([type(error).__name__, str(error)])


def decode_trouble(text: str) -> RawnindError:
    """A fatal error from JSON."""
    name, message = json.loads(text)
    error: RawnindError = getattr(errors, name)(message)
    return error
