"""Optimizers, schedules and averaging: pytrees in and out, no training state."""
