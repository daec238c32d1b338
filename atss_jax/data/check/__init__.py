"""A data set judged without training: images, boxes, classes, copies, conventions."""
