"""A trained detector in use: the Python API, batching, export."""
