"""Downloads the photos of published data sets: what is missing, checked, resumable."""
