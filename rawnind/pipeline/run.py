"""One run of `prepare`, from a source to a manifest."""

import contextlib
import os
import time
import uuid
from collections import Counter
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Unpack

import yaml

from rawnind.bridge.ledger import OutcomeLedger
from rawnind.documents import read_yaml
from rawnind.errors import (
    ConfigError,
    DamagedManifestError,
    ManifestError,
    RecipeMismatchError,
    first_of,
)
from rawnind.fetch.on_demand import RAW_FOLDER, OnDemand, on_demand
from rawnind.locations import is_uri
from rawnind.options import Options, RunOptions
from rawnind.output import attempts, cleanup
from rawnind.output.card import CARD, CROISSANT
from rawnind.output.journal.journal import Journal
from rawnind.output.lock import exclusive_run
from rawnind.output.manifest import read_head, read_summary
from rawnind.output.store import Store
from rawnind.output.tables import require_sealed
from rawnind.output.versions import VERSIONS, require_readable
from rawnind.pipeline.job import Job
from rawnind.pipeline.signals import Interrupts
from rawnind.planning import Plan, SceneFilter, make_plan
from rawnind.progress.progress import Progress, Silent
from rawnind.reasons import Outcome, Reason
from rawnind.recipe import ALGORITHM, Recipe
from rawnind.records import Summary
from rawnind.source.catalog import is_published, load_catalog
from rawnind.source.dataverse import RAWNIND
from rawnind.source.fingerprint import fingerprint, is_unchanged
from rawnind.source.http_client import HttpClient
from rawnind.source.index import Index, load_index

RECIPE = "recipe.yaml"


def prepare(
    source: str | Path, output: str | Path, *, progress: Progress | None = None, **options: Unpack[RunOptions]
) -> Summary:
    """Processes every scene of a source that has no outcome yet, and writes the manifest.

    Args:
        source: a folder of RAW files or an index YAML (see `rawnind.load_index`); or a DOI or a saved Dataverse reply, whose photos
            are fetched as they are needed, as are those of a list of URLs and of an index YAML whose root is a DOI.
        output: a local folder, or a URI that pyarrow.fs opens.
        progress: receives progress events; None: no reports.
        options: see `Options` and `Recipe`, e.g. `crop_size=512, limit=10`.

    Returns:
        Counts over all planned scenes, also those that an earlier run collected.

    Raises:
        ConfigError: An option is wrong.
        IndexInvalidError: The source is not a data set.
        DownloadError: The server of a DOI cannot be reached.
        RecipeMismatchError: The folder was made with another recipe.
        FolderInUseError: Another run works on the folder.
        StoppedEarlyError: The run was stopped or ran out of time; run again to resume.
        OutputError: The output cannot be written; what was committed stays.

    Examples:
        >>> summary = rawnind.prepare("RawNIND", "out", cfa="bayer", limit=10)  # doctest: +SKIP
    """
    return run(source, output, Options.from_dict(dict(options)), progress or Silent())


def run(source: str | Path, output: str | Path, options: Options, progress: Progress) -> Summary:
    """`prepare` with checked options.

    Args:
        source: see `prepare`.
        output: see `prepare`.
        options: every option.
        progress: receives progress events, and is closed at the end.
    """
    try:
        with Interrupts() as interrupts:
            return _from_source(source, output, options, progress, interrupts)
    finally:
        progress.close()


def _from_source(
    source: str | Path, output: str | Path, options: Options, progress: Progress, interrupts: Interrupts
) -> Summary:
    location = str(output) if "://" in str(output) else str(Path(output).absolute())
    fetched = _published(str(source), location, options, progress)
    index = fetched.index if fetched else load_index(source, follow_links=options.follow_links)
    selection = SceneFilter(
        cfa=options.cfa, exclude_test_reserve=options.exclude_test_reserve, limit=options.limit
    )
    plan = make_plan(index.scenes, selection, options.recipe)
    if fetched:
        _require_room(fetched, plan, options)
    else:
        _require_separate(location, index)
    store = Store(location)
    store.prepare_root()
    _refuse_links(store)
    name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    with exclusive_run(store, name) as lock:
        plan = replace(plan, recipe=_claim(store, options.recipe, fetches=fetched is not None))
        changed, todo, contents = _open_scenes(
            store, plan, options.retry_failed, published=fetched is not None
        )
        job = Job(
            output=location,
            run=name,
            root=index.root,
            plan=plan,
            options=options,
            fetched=fetched,
            changed=changed,
            lock=lock,
        )
        progress.planned(index, plan, already=len(plan.selected) - len(todo))
        if todo and plan.recipe.algorithm != ALGORITHM:
            raise RecipeMismatchError(
                f"{store.location} was made with algorithm {plan.recipe.algorithm}, this version computes with {ALGORITHM}, and "
                f"{len(todo)} scenes have no outcome yet. Choose a new --output."
            )
        if not todo:
            return _finish_without_workers(job, store, contents, progress)
        return _collect(job, todo, progress, interrupts)


def _collect(job: Job, todo: list[str], progress: Progress, interrupts: Interrupts) -> Summary:
    # Ray and numba take seconds to import; a folder that is complete needs neither.
    from rawnind.installation import this_installation
    from rawnind.pipeline.driver import Driver
    from rawnind.pipeline.ray_cluster import connected

    job = replace(job, installation=this_installation())
    with connected(job.options, interrupts):
        return Driver(job, progress, interrupts).collect(todo, versions())


def _published(source: str, location: str, options: Options, progress: Progress) -> OnDemand | None:
    """What is needed to fetch a source; None where its photos are there.

    Raises:
        ConfigError: An option is for sources that are fetched.
    """
    if not is_published(source):
        if options.keep_raw or options.disk_budget is not None:
            raise ConfigError(
                f"--keep-raw and --disk-budget are for a SOURCE that is fetched, such as {RAWNIND}"
            )
        return None
    client = HttpClient(told=progress.noted)
    catalog = load_catalog(source, client)
    for note in first_of(catalog.notes):
        progress.noted(f"differs: {note}")
    return on_demand(catalog, location, client, keep=options.keep_raw)


def _require_room(fetched: OnDemand, plan: Plan, options: Options) -> None:
    """Checks that the photos of each scene fit into the disk budget.

    Raises:
        ConfigError: A scene's do not.
    """
    if options.disk_budget is not None and any(
        file.size is None for files in fetched.files.values() for file in files
    ):
        raise ConfigError(
            "--disk-budget needs the length of every file; add it to the lines of the list of URLs"
        )
    sizes = fetched.sizes()
    largest = max(plan.selected, key=lambda scene: sizes[scene.key], default=None)
    budget = options.disk_budget
    if largest and budget is not None and sizes[largest.key] > budget * 1e9:
        raise ConfigError(
            f"the photos of {largest.key} take {sizes[largest.key] / 1e9:.2g} GB, more than --disk-budget {budget:g}"
        )


def _open_scenes(
    store: Store, plan: Plan, retry: frozenset[Reason], *, published: bool
) -> tuple[frozenset[str], list[str], str]:
    """Keys of changed scenes, keys of open scenes, and `OutcomeLedger.contents` where none is open, else empty.

    The journal is loaded here once, and once more by the bridge, whose process must be able to restart without this one. Published
    files never change: their names have their SHA-1s.
    """
    journal = Journal(store)
    changed = frozenset[str]() if published else changed_scenes(journal, plan)
    changed |= _without_shards(store, journal, plan)
    ledger = OutcomeLedger(plan, journal, retry=retry, changed=changed, first=journal.next_seq)
    todo = ledger.open_scenes()
    return changed, todo, "" if todo else ledger.contents()


def changed_scenes(journal: Journal, plan: Plan) -> frozenset[str]:
    """Keys of the scenes whose files have changed since they were processed.

    Sizes and modification times are compared first; a file is read only where they differ.
    """
    known = journal.inputs()
    return frozenset(
        scene.key
        for scene in plan.selected
        if (seen := known.get(scene.key))
        and seen != fingerprint(scene)
        and not is_unchanged(scene, journal.read(scene.key))
    )


def _without_shards(store: Store, journal: Journal, plan: Plan) -> frozenset[str]:
    """Keys of the scenes that were collected and of which a shard is not there any more.

    Folders are listed at once; a scene whose folder holds another number of files than pairs were collected is looked at closely.
    """
    if not journal.next_seq:
        return frozenset()
    files = Counter(entry.path.rpartition("/")[0] for entry in store.list("shards"))
    pairs = journal.latest.rows(scene.key for scene in plan.selected)[str(Outcome.COLLECTED)].tolist()
    return frozenset(
        scene.key
        for scene, count in zip(plan.selected, pairs, strict=True)
        if count
        and files[f"shards/{scene.key}"] != count
        and not all(store.exists(pair.shard.path) for pair in journal.read(scene.key).pairs if pair.shard)
    )


def versions() -> dict[str, str]:
    """Versions of what touches pixels and numbers, for manifest.yaml."""
    import rawpy

    names = (
        "rawnind",
        "ray",
        "numpy",
        "numba",
        "opencv-python-headless",
        "pyarrow",
        "rawpy",
        "exifread",
        "scipy",
    )
    return {**{name: version(name) for name in names}, "libraw": ".".join(map(str, rawpy.libraw_version))}


def _finish_without_workers(job: Job, store: Store, contents: str, progress: Progress) -> Summary:
    """Writes the manifest of a run whose scenes all have an outcome, unless it is up to date."""
    summary = _written(store, contents)
    if summary is None:
        from rawnind.bridge.bridge import Bridge  # imports what processes pixels

        bridge = Bridge(
            job.output,
            job.run,
            job.plan,
            max_scenes=1,
            retry=job.options.retry_failed,
            changed=job.changed,
            lock=job.lock,
        )
        bridge.begin()
        summary = bridge.finish(versions())
    attempts.remove_marks(store)  # a worker of a run that lost its lease may have left one later
    progress.finished(summary)
    return summary


def _written(store: Store, contents: str) -> Summary | None:
    """The summary of the manifest; None where it is of other contents, or one of its files is damaged or missing."""
    try:
        head = read_head(store)
        require_sealed(store)
    except (FileNotFoundError, DamagedManifestError):
        return None
    cards = (name for name in (CARD, CROISSANT) if name in head["files"])
    if head["contents"] != contents or not all(map(store.exists, cards)):
        return None
    return read_summary(store)


def _claim(store: Store, recipe: Recipe, *, fetches: bool = False) -> Recipe:
    """Writes the recipe into a new folder, or compares it with an existing folder's; returns it with that folder's digest."""
    place = f"{store.location}/{RECIPE}"
    try:
        known = read_yaml(store.read(RECIPE), place, ManifestError)
    except FileNotFoundError:
        _refuse_foreign(store, fetches=fetches)
        with contextlib.suppress(FileExistsError):  # another run wrote its recipe first; it is compared below
            text = yaml.safe_dump({"format": VERSIONS["recipe"], **recipe.as_dict()}, sort_keys=False)
            store.write(RECIPE, text.encode())
        known = read_yaml(store.read(RECIPE), place, ManifestError)
    if not isinstance(known, dict):
        raise ManifestError(f"{place} is not a recipe")
    require_readable("recipe", known.pop("format", None), place)
    try:
        found = Recipe.of_folder(known)
    except ConfigError as error:
        raise ManifestError(f"{place} is not a recipe of this version: {error}") from error
    newer = {
        key: getattr(found, key) for key in found.absent if getattr(recipe, key) == getattr(Recipe(), key)
    }
    recipe = replace(recipe, **newer)
    if replace(found, algorithm=recipe.algorithm) != recipe:
        old, new = replace(found, absent=frozenset()).as_dict(), recipe.as_dict()
        changes = ", ".join(
            f"{key} {old[key]} there and {new[key]} now" for key in new if old[key] != new[key]
        )
        raise RecipeMismatchError(
            f"{store.location} was made with another recipe ({changes}). Choose a new --output, or pass "
            f"--config {store.location}/{RECIPE} to continue with the old one."
        )
    return found


def _require_separate(location: str, index: Index) -> None:
    """Refuses an output folder that contains the source, or that the next run would take for a part of the source.

    Args:
        location: of the output.
        index: of the source.

    Raises:
        ConfigError: The folders are not separate.
    """
    if is_uri(index.root):
        within = f"{location.rstrip('/')}/".startswith(f"{index.root.partition('?')[0].rstrip('/')}/")
        if within:
            raise ConfigError(
                f"the output folder {location} lies in the source; choose a folder outside of it for --output"
            )
    if "://" in location or is_uri(index.root):
        return
    root, output = Path(index.root), Path(os.path.realpath(location))
    if Path(os.path.realpath(root)).is_relative_to(output):
        raise ConfigError(
            f"the source {root} lies inside the output folder {location}, where runs write and remove files. Choose a folder "
            "outside the source for --output."
        )
    prefix = f"{root}{os.sep}"
    photos = (ref.path for scene in index.scenes for ref in (*scene.ground_truths, *scene.noisy))
    below = {path.removeprefix(prefix).partition(os.sep) for path in photos if path.startswith(prefix)}
    for name in sorted({first for first, _, rest in below if rest}):
        if output.is_relative_to(os.path.realpath(root / name)):
            raise ConfigError(
                f"the output folder {location} lies in {root / name}, where the source's scenes are. Choose a folder outside "
                "the source for --output."
            )


def _refuse_links(store: Store) -> None:
    """Refuses linked folders before anything is computed."""
    for name in cleanup.FOLDERS:
        store.require_unlinked(name)


def _refuse_foreign(store: Store, *, fetches: bool) -> None:
    """Refuses a folder without a recipe that holds files of these names: a run would replace or remove them."""
    ours = ("parts", "shards", attempts.FOLDER, *([RAW_FOLDER] if fetches else []))
    folders = (name for name in ours if store.list(name))
    files = (name for name in ("manifest.parquet", "pairs.parquet", "manifest.yaml") if store.exists(name))
    if taken := [*folders, *files]:
        raise ConfigError(
            f"{store.location} holds {', '.join(taken)} but no {RECIPE}, so no run can be resumed there, and a new one would "
            "overwrite these. Choose a new --output."
        )
