"""Reads crops while `rawnind prepare` is still running."""
