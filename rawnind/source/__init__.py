"""The source: index, file names, decoding. No Ray."""
