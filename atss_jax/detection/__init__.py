"""Pure array maths: boxes, anchors, assignment, losses, NMS. No Flax, no config."""
