"""The journal: write-once files that record every committed scene."""
