"""COCO numbers, and evaluating a model, a workdir or a file of detections."""
