"""Data sets, transforms and the batch stream. NumPy only: workers touch no device."""
