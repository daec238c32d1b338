"""Data sets of TensorFlow Datasets: read, indexed and prepared."""
