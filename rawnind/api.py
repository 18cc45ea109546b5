"""The commands as Python functions. Each imports what it needs when it is called: Ray and torch take seconds."""

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from rawnind.options import Options, RunOptions

if TYPE_CHECKING:
    from rawnind.download_estimate import DownloadEstimate
    from rawnind.estimate import Estimate
    from rawnind.output.status import Status


def plan(source: str | Path, **options: Unpack[RunOptions]) -> "Estimate | DownloadEstimate":
    r"""Estimates what `prepare` would do and need, from file headers alone.

    Args:
        source: a folder of RAW files or an index YAML (see `load_index`); or a DOI or a saved Dataverse reply, of which nothing
            but the list of files is read.
        options: those of `prepare`.

    Returns:
        Scenes, pairs, crops, disk space, memory and workers; of a published data set bytes to download and time too.

    Raises:
        IndexInvalidError: The source is not a data set.
        ConfigError: An option is wrong, or the run could not do anything.
        DownloadError: The server of a DOI cannot be reached.

    Examples:
        >>> print(*rawnind.plan("RawNIND", cfa="x-trans").lines(), sep="\n")  # doctest: +SKIP
    """
    from rawnind.download_estimate import estimate_download
    from rawnind.estimate import estimate
    from rawnind.source.catalog import is_published

    chosen = Options.from_dict(dict(options))
    return estimate_download(str(source), chosen) if is_published(str(source)) else estimate(source, chosen)


def verify(output: str | Path) -> tuple[str, ...]:
    """Recomputes every count, hash and coordinate of an output folder.

    Args:
        output: the folder that `prepare` wrote: a local path, or a URI that pyarrow.fs opens.

    Returns:
        One sentence per problem; empty where everything is as it was written.

    Raises:
        NotPreparedError: The folder has no manifest.
        ManifestError: manifest.yaml cannot be read.
        OutputError: The storage cannot be read.

    Examples:
        >>> assert not rawnind.verify("out")  # doctest: +SKIP
    """
    from rawnind.errors import NotPreparedError
    from rawnind.output.manifest import MANIFEST_YAML
    from rawnind.output.store import Store
    from rawnind.output.verify import verify as problems_of

    store = Store(str(output))
    if not store.exists(MANIFEST_YAML):
        raise NotPreparedError(
            f"{store.location} has no {MANIFEST_YAML}; run `rawnind prepare SOURCE --output {store.location}` first"
        )
    return tuple(problems_of(store))


def status(output: str | Path) -> "Status":
    """What was committed to an output folder, and every scene, pair and file that was not collected, also during a run.

    Args:
        output: the folder that `prepare` writes: a local path, or a URI that pyarrow.fs opens.

    Returns:
        The last run, scenes by outcome, crops, the manifest's counts, and what is not collected, with reason and file.

    Raises:
        NotPreparedError: No scene was ever committed there.
        ManifestError: The journal is damaged.

    Examples:
        >>> for failure in rawnind.status("out").failures:  # doctest: +SKIP
        ...     print(failure.scene, failure.reason, failure.detail)
    """
    from rawnind.output.status import read_status
    from rawnind.output.store import Store

    return read_status(Store(str(output)))
