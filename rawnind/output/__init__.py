"""The output folder: shards, journal, manifest, and the checks on them. No Ray."""
