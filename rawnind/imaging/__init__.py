"""Image processing of pairs: arrays in, arrays out; no Ray, no disk. `coordinates` defines the units and the frames."""
