"""Collects results from workers: validates them, commits them to the journal, counts them, feeds training. No Ray."""
