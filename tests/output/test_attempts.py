"""The ledger of attempts: what it knows, and that its removal takes nothing else along."""

from pathlib import Path

import pytest

from rawnind.output.attempts import Ledger, TimedOut, remove_marks


def test_attempts_are_counted_by_run_and_scene(store):
    ledger = Ledger(store, "run1", "bayer/cat")
    assert [ledger.begin(), ledger.begin()] == [0, 1]
    stages = [f"stage {number}" for number in range(5)]
    for stage in stages:
        ledger.mark_timeout(stage, "0" * 40)
    found = Ledger(store, "run1", "bayer/cat").timeouts()
    assert found == [TimedOut(stage=stage, sha1="0" * 40) for stage in stages]
    assert Ledger(store, "run2", "bayer/cat").begin() == Ledger(store, "run1", "bayer/dog").begin() == 0


def test_removing_marks_removes_the_empty_folder_too(store):
    ledger = Ledger(store, "run1", "bayer/cat")
    ledger.begin()
    ledger.mark_timeout("decode", None)
    remove_marks(store)
    assert list(Path(store.location).iterdir()) == []
    remove_marks(store)  # nothing there is fine


@pytest.mark.parametrize("name", ["notes.txt", "run1/notes.txt", "run1/{scene}/begun/notes.txt"])
def test_removing_marks_keeps_what_no_run_wrote(store, name):
    Ledger(store, "run1", "bayer/cat").begin()
    folder = Path(store.location)
    (mark,) = (path for path in (folder / "attempts").rglob("*") if path.is_file())
    mine = folder / "attempts" / name.format(scene=mark.parent.parent.name)
    mine.write_text("mine")
    remove_marks(store)
    assert [path for path in folder.rglob("*") if path.is_file()] == [mine]
