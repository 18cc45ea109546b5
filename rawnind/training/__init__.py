"""From crops to batches and trained steps."""
