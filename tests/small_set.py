"""Five scenes of the sample, and what a run on them must leave in its output folder."""

import hashlib
import shutil
from pathlib import Path

SAMPLE_SIZE = {"height": 288, "width": 384}
CROPS = {"crop_size": 64, "stride": 96}
"""Recipe of every test run: few small crops."""
SCENES = ("cameraman", "cat", "coins", "moon", "tissue")
"""Test reserve, without faults, one damaged noisy photo, one that fails, X-Trans."""


def copy_small_set(sample, folder):
    """Copies the photos of the five scenes into a new folder."""
    folder.mkdir()
    for path in sample.glob("*.dng"):
        if any(f"_{scene}_" in path.name for scene in SCENES):
            shutil.copy2(path, folder)
    return folder


def digests(output):
    """SHA-256 of the manifests, card and shards: they depend on neither order nor faults nor restarts."""
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(
            [*Path(output).rglob("*.parquet"), *Path(output).glob("*.json"), *Path(output).glob("README.md")]
        )
        if path.parent.name != "parts"
    }


def leftovers(output):
    """Files and folders that a finished run must not leave behind."""
    known = {
        "manifest.parquet",
        "pairs.parquet",
        "manifest.yaml",
        "README.md",
        "croissant.json",
        "recipe.yaml",
        "events.jsonl",
        "shards",
        "parts",
    }
    found = [path for path in Path(output).rglob("*") if path.name.startswith(".tmp-")]
    return found + [path for path in Path(output).iterdir() if path.name not in known]
