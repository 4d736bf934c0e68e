"""Routes of the ladder: one file each, with `KIND`, `Parameters`, `labels` and `climb(workshop, parameters)`."""
