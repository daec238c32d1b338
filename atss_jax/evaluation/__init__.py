"""COCO metric, and running it on a model or a workdir."""
