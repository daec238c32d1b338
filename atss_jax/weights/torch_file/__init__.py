"""Reads and writes PyTorch checkpoint files without PyTorch."""
