"""PyTorch checkpoint files, read and written without PyTorch."""
