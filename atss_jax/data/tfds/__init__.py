"""Data sets in the format of TensorFlow Datasets: read, indexed and prepared."""
