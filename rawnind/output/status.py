"""Where a run stands, from its journal and manifest, for people."""

from collections import Counter
from collections.abc import Iterator

from rawnind.errors import ConfigError
from rawnind.output.events import read_events
from rawnind.output.journal.commits import OUTCOMES
from rawnind.output.journal.journal import Journal
from rawnind.output.manifest import read_summary
from rawnind.output.store import Store
from rawnind.records import Outcome


def status_lines(store: Store) -> Iterator[str]:
    """Counts over everything committed, the manifest's counts, and every failure.

    Raises:
        ConfigError: Nothing was ever committed there.
        ManifestError: The journal is damaged.
    """
    journal = Journal(store)
    if not journal.latest:
        raise ConfigError(
            f"{store.location} holds no committed scene; is it the --output of `rawnind prepare`?"
        )
    rows = journal.latest.all_rows()
    scenes = Counter(OUTCOMES[place] for place in rows["outcome"])
    committed = ", ".join(f"{scenes[outcome]} {outcome}" for outcome in Outcome if scenes[outcome])
    crops = int(rows["crops"].sum())
    yield f"Committed: {len(rows)} scenes ({committed}), {crops} crops"
    try:
        summary = read_summary(store)
    except FileNotFoundError:
        yield "Manifest:  not written yet; run `rawnind prepare` again to resume"
    else:
        yield f"Manifest:  {summary.scenes.planned} scenes, {summary.pairs.collected} pairs, {summary.crops} crops"
    yield from _failures(journal, store)


def _failures(journal: Journal, store: Store) -> Iterator[str]:
    failed = [journal.read(key) for key, commit in sorted(journal.latest.items()) if commit.failures]
    files = [file for result in failed for file in result.failed_files]
    scenes = [result for result in failed if result.outcome is Outcome.FAILED and not result.failed_files]
    advice = "(try again with `rawnind prepare ... --retry-failed`)"
    attempts = _attempts(store) if failed else Counter()
    if scenes:
        yield f"Failed scenes without a file to blame: {len(scenes)} {advice}"
    for result in scenes:
        yield f"  {result.reason}: {result.scene.name}: {result.detail}{_tried(attempts[result.scene.key])}"
    if files:
        yield f"Failed files: {len(files)} {advice}"
    for file in files:
        scene = f"{file.photo.cfa}/{file.photo.scene}"
        yield f"  {file.reason}: {file.photo.scene}: {file.detail}{_tried(attempts[scene])}"


def _attempts(store: Store) -> Counter[str]:
    """How often workers began each scene, over all runs, as far as events.jsonl knows."""
    attempts: Counter[str] = Counter()
    for line in read_events(store):
        if line.get("event") == "commit":
            attempts[line["scene"]] += int(line["telemetry"].get("attempts", 1))
    return attempts


def _tried(times: int) -> str:
    return f" [{times} attempt{'s' if times > 1 else ''}]" if times else ""
