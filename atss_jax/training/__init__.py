"""State, schedule, step, loop, log and checkpoints."""
