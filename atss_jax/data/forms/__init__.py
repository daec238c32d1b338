"""Data sets in whatever form they lie on disk: found, read, and used for training."""
