"""Augmentation: mmdetection's transforms and functions of users, on single rows."""
