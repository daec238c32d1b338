"""The shipped configs: each file has a `get_config()`; fields have mmdet's names."""
