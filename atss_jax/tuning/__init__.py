"""Chooses the settings of a config for a data set, without training."""
