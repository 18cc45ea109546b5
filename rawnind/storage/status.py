"""Where a run stands, from its journal and manifest, for people."""

from collections import Counter
from collections.abc import Iterator

from rawnind.errors import ConfigError
from rawnind.records import Outcome
from rawnind.storage.manifest import read_summary
from rawnind.storage.parts import Journal
from rawnind.storage.store import Store


def status_lines(store: Store) -> Iterator[str]:
    """Counts over everything committed, the manifest's counts, and every file that failed.

    Raises:
        ConfigError: Nothing was ever committed there.
        ManifestError: The journal is damaged.
    """
    journal = Journal(store)
    if not journal.latest:
        raise ConfigError(
            f"{store.location} holds no committed scene; is it the --output of `rawnind prepare`?"
        )
    scenes = Counter(commit.outcome for commit in journal.latest.values())
    committed = ", ".join(f"{scenes[outcome]} {outcome}" for outcome in Outcome if scenes[outcome])
    crops = sum(commit.crops for commit in journal.latest.values())
    yield f"Committed: {len(journal.latest)} scenes ({committed}), {crops} crops"
    try:
        summary = read_summary(store)
    except FileNotFoundError:
        yield "Manifest:  not written yet; run `rawnind prepare` again to resume"
    else:
        yield f"Manifest:  {summary.scenes.planned} scenes, {summary.pairs.collected} pairs, {summary.crops} crops"
    yield from _failures(journal)


def _failures(journal: Journal) -> Iterator[str]:
    found = [
        file
        for key, commit in sorted(journal.latest.items())
        if commit.failures
        for file in journal.read(key).failed_files
    ]
    if found:
        yield f"Failed files: {len(found)} (try them again with `rawnind prepare ... --retry-failed`)"
    for file in found:
        yield f"  {file.reason}: {file.photo.scene}: {file.detail}"
