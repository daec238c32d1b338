"""Experiments: each file has a `get_config()`; fields bear mmdet's names."""
