"""The pair science: arrays in, arrays out. No Ray, no disk."""
