"""What can go wrong, grouped by what the caller can do about it."""

import itertools
import re
from collections.abc import Iterable, Iterator

from rawnind.reasons import Reason


class RawnindError(Exception):
    """Base of every error that rawnind raises on purpose; its text is written for the user."""


class ConfigError(RawnindError):
    """An option or a config file is wrong. Correct it and call again."""


class IndexInvalidError(RawnindError):
    """The source is not a data set that can be indexed. Point to a folder of RAW files or to an index YAML."""


class OutputError(RawnindError):
    """The output folder cannot be used. Nothing that was committed is lost: free it and run again."""


class LinkError(OutputError):
    """A link stands in the output folder, and is not followed. Replace it by a folder or a file, or remove it."""


class SourceLostError(RawnindError):
    """The source folder went away during the run. No file is blamed: bring it back and run again."""


class WorkersDyingError(RawnindError):
    """A scene crashes its worker repeatedly although none of its files does. Give workers more memory and run again."""


class CodeMismatchError(RawnindError):
    """Driver, bridge and workers run different code or libraries. Install the same on every node and run again."""


class RayLostError(RawnindError):
    """A process of Ray itself ended. Nothing that was committed is lost: run again to resume."""


class ProgramError(RawnindError):
    """A bug in rawnind or one of its libraries ended the run. Nothing that was committed is lost; please report it."""


class FolderInUseError(RawnindError):
    """Another run works on the output folder. Wait for it, or choose a new --output."""


class StoppedEarlyError(RawnindError):
    """The run was stopped before every scene had an outcome. What was committed stays: run again to resume."""


class ManifestError(RawnindError):
    """The output folder's contents contradict themselves."""


class DamagedManifestError(ManifestError):
    """A file of the manifest is damaged or missing. Run `rawnind prepare` again: it writes them anew from the journal."""


class NotPreparedError(ManifestError):
    """The folder holds no result of `rawnind prepare`. Name another folder, or prepare this one first."""


class RecipeMismatchError(ManifestError):
    """The folder was made with another recipe. Choose a new --output, or pass the old recipe with --config."""


class DamagedShardError(ManifestError):
    """A shard does not match the manifest. Remove it and run `rawnind prepare` again."""

    def __str__(self) -> str:
        return f"{super().__str__()}. Remove that file, and run `rawnind prepare` again."


class SourceError(RawnindError):
    """One input file cannot be used. It costs its pair, or its scene where it is the only ground truth.

    Attributes:
        reason: of the pair.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.sentence} {self.detail}"


class DownloadError(RawnindError):
    """A server does not give a file. Run again, unless it is final.

    Attributes:
        reason: one word for lists, such as `not_found`.
        final: whether trying again is useless until something changes at the server or in the request.
        wait: seconds that the server asked to wait; 0 where it did not.
    """

    def __init__(self, reason: str, detail: str, *, final: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.final = final
        self.wait = wait

    def __str__(self) -> str:
        return self.detail


def printable(text: str, most: int = 300) -> str:
    r"""Text from outside with control characters, broken encodings and direction marks as escapes, so that a terminal shows it as it is.

    Args:
        text: anything, such as a file name.
        most: characters that are shown; the rest is cut off.

    >>> printable("tea\x1b[2J pot")
    'tea\\x1b[2J pot'
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[:most])
    return shown + ("..." if len(text) > most else "")


def first_of(lines: Iterable[str], most: int = 20) -> Iterator[str]:
    """The first lines of a list, and how many more there are.

    >>> list(first_of(["a", "b", "c", "d"], most=2))
    ['a', 'b', '... and 2 more']
    """
    rest = iter(lines)
    yield from itertools.islice(rest, most)
    if more := sum(1 for _ in rest):
        yield f"... and {more} more"


_CREDENTIALS = re.compile(r"(?<=://)(?!anonymous@)(?:[^\s@?#/]*:[^\s?#]*|[^\s@?#/]*)@")
_SECRET_OPTION = re.compile(r"(?i)(?<=[?&])([^=&\s]*(?:key|secret|token|password|sig)[^=&\s]*)=[^&#\s]*")


def redacted(text: str) -> str:
    """A text for messages in which the credentials of URIs are hidden; `gs://anonymous@bucket` has none.

    >>> redacted("s3://AKIA:wJal/rXUt@bucket/out?region=eu&access_token=abc")
    's3://***@bucket/out?region=eu&access_token=***'
    """
    return _SECRET_OPTION.sub(r"\1=***", _CREDENTIALS.sub("***@", text))
