"""The exit codes of every command, and which error ends with which of them."""

from enum import IntEnum

from rawnind.errors import (
    CodeMismatchError,
    ConfigError,
    DownloadError,
    FolderInUseError,
    IndexInvalidError,
    LinkError,
    NotPreparedError,
    OutputError,
    RawnindError,
    RayLostError,
    RecipeMismatchError,
    SourceLostError,
    StoppedEarlyError,
    WorkersDyingError,
)


class ExitCode(IntEnum):
    """What a command ends with; the same for all commands."""

    COMPLETE = 0
    PROBLEM = 1
    """`verify` or the check of `export` found something, or an error in rawnind itself."""
    USAGE = 2
    """An option, the source or the output folder is wrong, for example missing."""
    STOPPED = 3
    """Stopped early; the same command resumes."""
    NOTHING_COLLECTED = 4
    FAILED = 5
    """`--strict`, and a scene or a pair failed; or a file that `fetch` cannot get."""


_WRONG_USAGE = (
    CodeMismatchError,
    ConfigError,
    IndexInvalidError,
    LinkError,
    NotPreparedError,
    RecipeMismatchError,
    FolderInUseError,
)
_RUN_AGAIN = (DownloadError, StoppedEarlyError, SourceLostError, OutputError, WorkersDyingError, RayLostError)


def exit_code(error: RawnindError) -> ExitCode:
    """The exit code of a command that an error ended.

    >>> exit_code(ConfigError("crop.size must be a positive multiple of 32, got 100"))
    <ExitCode.USAGE: 2>
    """
    if isinstance(error, _WRONG_USAGE):
        return ExitCode.USAGE
    return ExitCode.STOPPED if isinstance(error, _RUN_AGAIN) else ExitCode.PROBLEM
