"""Pure array computations: boxes, anchors, assignment, losses, NMS; only jax."""
